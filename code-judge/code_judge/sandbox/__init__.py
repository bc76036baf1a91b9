"""Runs programs, each in a fork of a warm interpreter (the zygote), isolated in layers.

The service's side
    pool.py       chooses a zygote for a program, and returns how the program ended
    link.py       one zygote, as the service sees it
    capture.py    a program's input and output
    status.py     what a program's process reports
    flavours.py   which zygotes there are                   interpreter.py  and of which interpreter

The zygote's side: standard library only, because every fork pays for what is loaded
    zygote.py     its three processes: keeper, zygote and template
    warden.py     what the zygote does: starts programs
    program_end.py  and sees to the end of everything they started
    watch.py      keeps the limits of running programs       limits.py    time, pure arithmetic
    census.py     what programs use, from /proc              processes.py killing, priorities
    box.py        a slot: user, folder, ruleset              users.py     which users there are
    order.py      what the template is told to start        parcel.py    files in and out
    template.py   the warm interpreter that programs are forked from
    privileges.py the fork gives up its privileges           user.py      and becomes the submitted script
    cpp.py        or the compiler, or what was compiled     precompiled.py a script that is compiled once

Sessions
    session_pool.py    the service's side: opens them, runs their cells
    session_warden.py  their zygote's warden: what it is told, by the service and by cells
    session_end.py     how cells end                             session_close.py  how states and sessions end
    family.py          a session's states and its cell
    cell.py            a state's process, and its forks, which run cells         cell_code.py  a cell's code
    files.py           the folder, and going back to what was in it
    guard.py           cells cannot signal the states that they came from

The walls
    layers.py     which layers there are, and in what order  root.py      the file system that programs see
    filter.py     the seccomp filter                         calls.py     numbers of system calls
    groups.py     control groups, where the host has them
    kernel.py     system calls that Python does not offer    mappings.py  makes forks cheaper
    immortal.py   keeps memory shared after a fork
"""
