"""`code-judge bench`: what a judge with this contract reaches, and what this machine could.

loads.py    the programs        http.py   a client that costs little        run.py   runs, table, figure
soak.py     `code-judge soak`       soak_run.py      load and mishaps
            soak_service.py  what it runs                   soak_redis.py    its own Redis
processes.py                 what is known of processes from outside
"""
