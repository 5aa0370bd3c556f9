"""Where the server is: named, found, or started and ended with its users.

embedded.py   use() and using(): the URL of a server for as long as a block lasts
store/client.py      open_client() and check_server(): a client, and whether the server will do
discovery.py   which program to run          launch.py    start it, wait until it answers
addresses.py  how a URL is shown            commands.py  which commands a server must have
folder.py     whether a data folder may be obeyed
watchdog.py   the process that ends it      locks.py     what both of them hold
"""
