"""Runs programs, each in a fork of a warm interpreter (the zygote), isolated in layers.

pool.py       the service's side: chooses a zygote for a program, returns how the program ended
link.py       one zygote as the service sees it        capture.py  a program's input and output
flavours.py   which zygotes there are
zygote.py     keeper, zygote and template: the three processes of a zygote
warden.py     what the zygote does: programs started, limits enforced from outside, nothing left behind
template.py   the warm process that is forked
layers.py     the layers of isolation around it        box.py      a slot: user, folder, ruleset
user.py       what the fork does: drop privileges, become the submitted script
kernel.py, filter.py, processes.py   system calls, the seccomp filter, looking at and killing processes
"""
