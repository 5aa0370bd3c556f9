"""The processes around the log: dispatcher, timer, projector, archiver, rebuild."""
