"""Stateful sessions: cells that share an interpreter and a folder, each kept or thrown away.

wire.py      what travels over HTTP, and the errors
states.py    which states of a session are still needed, pure bookkeeping
register.py  which sessions a process holds, and how others ended
cells.py     runs cells
manager.py   opens sessions, moves them between states, ends them when they are idle
actions.py   what callers can ask: one table for HTTP and Redis
routes.py    /session
setup.py     puts together what a process needs
client.py    a client for training loops
Over Redis, where API processes ask and workers hold the sessions:
  redis_api.py    the asking side        redis_calls.py    what it knows of its calls
  redis_home.py   the holding side       redis_mail.py     streams that both read and write
  redis_scripts.py  scripts that change several things in one step

The processes are in sandbox/: session_pool.py, session_warden.py, cell.py.
"""
