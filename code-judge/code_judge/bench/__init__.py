"""`code-judge bench`: what a judge with this contract reaches, and what this machine could.

loads.py    the programs        http.py   a client that costs little        run.py   runs, table, figure
soak.py     `code-judge soak`
"""
