"""A small node and a read model to start from: `eventsched node examples.echo_node:node`."""
