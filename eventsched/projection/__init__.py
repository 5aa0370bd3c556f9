"""The runtime of projections: protocol, fold, batches, stored records."""
