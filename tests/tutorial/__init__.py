"""A tutorial that runs: read the files in order, each test is one thing to know.

Everything a user needs is `import eventsched`. In place of the fixture `url`, run `eventsched up`
in another terminal and call `connect()` without an argument in the same folder.
"""
