"""For producers and listeners: clients, sessions and the outcomes that they receive."""
