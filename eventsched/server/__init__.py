"""The Redis server: a named one, or one that is started in a data folder and ends with its users.

choice.py     which server a process uses                              (start here)
embedded.py   use() and using(): the URL of a server during a block
discovery.py  the choice of the server program      launch.py    starting it, waiting for it
watchdog.py   the process that ends it              locks.py     file locks
folder.py     checks of the data folder             commands.py  the commands that eventsched needs
testing.py    servers and clusters for tests

Clients are in store/client.py, the display of URLs is in addresses.py.
"""
