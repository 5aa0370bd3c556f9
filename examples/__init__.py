"""Small nodes to start from: `eventsched node examples.echo_node:node`."""
