"""Examples to copy from: a web application with a microphone, and a node in JavaScript."""
