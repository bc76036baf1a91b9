"""A zygote: a script of its own, started with a clean environment, that becomes three processes.

keeper    outlives the others, ends what they left and then closes the socket
zygote    the first of a process namespace: sets the layers up, starts programs, keeps their limits (warden.py)
template  the warm interpreter that programs are forked from (template.py)

Arguments: the fd of the service's socket, a folder of its own, and the flavour, with "+sessions" for a zygote of
sessions. Whichever of service, keeper, zygote and template is killed, the others end and leave nothing.
"""

import os
import signal
import sys
from _socket import AF_UNIX, SOCK_SEQPACKET, socketpair

_PACKAGE_ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path[0] = _PACKAGE_ROOT
from code_judge.sandbox import groups, kernel, layers, mappings, processes, template  # noqa: E402


def main() -> None:
    control, folder, (flavour, _, sessions) = int(sys.argv[1]), sys.argv[2], sys.argv[3].partition("+")
    mappings.join_mappings()
    kernel.prctl(kernel.PR_SET_CHILD_SUBREAPER, 1)
    keeper = os.pidfd_open(os.getpid())
    found = layers.leave_processes(for_sessions=bool(sessions))
    zygote = os.fork()
    if zygote:
        _keep(zygote, folder, found)
        return
    # The zygote dies with its keeper, even one that has been stopped.
    kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
    # Python's own handler would let a program end it, where programs have its user.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if "pid" not in found.active:
        kernel.prctl(kernel.PR_SET_CHILD_SUBREAPER, 1)
    # Of no use to programs.
    del os.environ["LD_BIND_NOW"]
    os.environ.pop("CODE_JUDGE_IMITATE_KERNEL", None)
    ours, orders = socketpair(AF_UNIX, SOCK_SEQPACKET)
    pid = os.fork()
    if pid == 0:
        kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        ours.close()
        os.close(control)
        os.close(keeper)
        sys.path.remove(_PACKAGE_ROOT)
        template.serve(orders, flavour, for_sessions=bool(sessions))
    orders.close()
    # Of no use to the template, and dearer for every fork.
    from code_judge.sandbox.warden import Template, TemplateLost, Warden

    kind: type[Warden] = Warden
    if sessions:
        from code_judge.sandbox.session_warden import SessionWarden

        kind = SessionWarden
    try:
        layers.enter(found, folder)
        kind(control, keeper, Template(pid, ours.detach()), found, folder).serve()
    except TemplateLost as error:
        print(f"code-judge: {error}", file=sys.stderr)
    finally:
        processes.end_children()


def _keep(zygote: int, folder: str, found: layers.Layers) -> None:
    """Wait for the zygote's end, end what it left, and only then let go of the socket."""
    os.waitpid(zygote, 0)
    processes.end_children()
    if found.groups is not None:
        groups.remove(found.groups.path)
    # Not in the zygote, which is the smaller for it.
    import shutil

    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
