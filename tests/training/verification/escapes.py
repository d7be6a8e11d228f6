"""Attempts to escape from the sandbox, for the tests only.

Each attempt returns evidence of success; None or an error means that the sandbox held. The tests
replace `@NAME@` by an address or a path that exists outside.
"""

SYSTEM_CALL = """
    import ctypes, platform
    libc = ctypes.CDLL(None, use_errno=True)
    def ask(x86, arm, *words):
        ctypes.set_errno(0)
        answer = libc.syscall(x86 if platform.machine() == "x86_64" else arm, *words)
        if answer == -1 and ctypes.get_errno() in (1, 38):
            return None
        return [answer, ctypes.get_errno()]
"""
READ = """
    try:
        return open({path!r}, "rb").read(64).hex() or "it is there"
    except IsADirectoryError:
        import os
        return os.listdir({path!r})
"""
WRITE = """
    with open({path!r}, "ab") as file:
        file.write(b"x")
    return "written"
"""
CONNECT = """
    import socket
    connection = socket.socket({family}, {kind})
    connection.connect({address})
    return "connected"
"""


def read(path: str) -> str:
    return READ.format(path=path)


def write(path: str) -> str:
    return WRITE.format(path=path)


def connect(family: str, kind: str, address: str) -> str:
    return CONNECT.format(family=f"socket.{family}", kind=f"socket.{kind}", address=address)


def asks(call: str) -> str:
    return f"{SYSTEM_CALL}\n    return ask({call})"


PROBES = {
    "reads /etc/shadow": read("/etc/shadow"),
    "reads /etc/passwd": read("/etc/passwd"),
    "reads a file of ours": read("@FILE@"),
    "reads the repository": read("@REPOSITORY@"),
    "reads a home": read("/root"),
    "reads the first process's environment": read("/proc/1/environ"),
    "reads its own memory": read("/proc/self/mem"),
    "lists processes": read("/proc"),
    "lists devices of the kernel": read("/sys"),
    "lists shared memory": read("/dev/shm"),
    "opens the terminal": read("/dev/tty"),
    "opens the disk": read("/dev/vda"),
    "finds a secret in its environment": """
    import os
    return [name for name in os.environ if "SECRET" in name] or None
""",
    "connects by tcp": connect("AF_INET", "SOCK_STREAM", "('127.0.0.1', @PORT@)"),
    "connects by tcp of version 6": connect("AF_INET6", "SOCK_STREAM", "('::1', @PORT@)"),
    "sends by udp": """
    import socket
    socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("127.0.0.1", @PORT@))
    return "sent"
""",
    "connects to a unix socket": connect("AF_UNIX", "SOCK_STREAM", "@SOCKET@"),
    "connects to an abstract socket": connect("AF_UNIX", "SOCK_STREAM", "@ABSTRACT@"),
    "talks to the host of the machine": connect("AF_VSOCK", "SOCK_STREAM", "(2, 1024)"),
    "listens to the kernel's network": """
    import socket
    return socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0).fileno()
""",
    "changes a library": write("/python/lib/@VERSION@/json/__init__.py"),
    "changes the interpreter": write("/python/bin/@VERSION@"),
    "leaves a file at the top": write("/left"),
    "leaves a file among devices": write("/dev/left"),
    "makes a device": """
    import os, stat
    os.mknod("/tmp/disk", 0o600 | stat.S_IFBLK, os.makedev(254, 0))
    return "made"
""",
    "fills the disk": """
    import os
    for number in range(64):
        with open(f"/tmp/{number}", "wb") as file:
            file.write(bytes(2**20))
    return "64 MiB written"
""",
    "writes one file beyond the limit": """
    import signal
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    with open("/tmp/sparse", "wb") as file:
        file.seek(2**30)
        file.write(b"x")
        file.flush()
    return "1 GiB long"
""",
    "takes 1 GiB": """
    return len(bytearray(2**30))
""",
    "takes 1 GiB in many processes": """
    import os, time
    children = []
    for _ in range(8):
        child = os.fork()
        if child == 0:
            held = bytearray(128 * 2**20)
            time.sleep(0.5)
            os._exit(7)
        children.append(child)
    ends = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    return ends.count(7) * 128 >= 1024 or None
""",
    "takes memory that no process has": """
    import os
    return os.memfd_create("hidden")
""",
    "forks without end": """
    import os, time
    children = []
    try:
        while len(children) < 200:
            child = os.fork()
            if child == 0:
                time.sleep(20)
                os._exit(0)
            children.append(child)
    except OSError:
        pass
    return len(children) if len(children) > 32 else None
""",
    "starts threads without end": """
    import threading, time
    running = []
    try:
        while len(running) < 200:
            thread = threading.Thread(target=time.sleep, args=(5,), daemon=True)
            thread.start()
            running.append(thread)
    except RuntimeError:
        pass
    return len(running) if len(running) > 32 else None
""",
    "raises its limits": """
    import resource
    won = []
    for name in ("RLIMIT_AS", "RLIMIT_NPROC", "RLIMIT_CPU", "RLIMIT_FSIZE", "RLIMIT_NOFILE"):
        try:
            resource.setrlimit(getattr(resource, name), (-1, -1))
            won.append(name)
        except (ValueError, OSError):
            pass
    return won or None
""",
    "becomes root": """
    import os
    won = []
    for become in (os.setuid, os.seteuid, os.setgid, os.setegid):
        try:
            become(0)
            won.append(become.__name__)
        except OSError:
            pass
    return won or None
""",
    "is root already": """
    import os
    return 0 in (*os.getresuid(), *os.getresgid(), *os.getgroups()) or None
""",
    "sees processes outside": """
    import os
    seen = []
    for process in range(8, 40_000):
        try:
            os.kill(process, 0)
            seen.append(process)
        except ProcessLookupError:
            pass
        except PermissionError:
            seen.append(process)
    return seen or None
""",
    "stops the first process": """
    import os, signal, time
    os.kill(1, signal.SIGKILL)
    os.kill(os.getppid(), signal.SIGSTOP)
    time.sleep(0.1)
    return None if os.getppid() in (0, 1) else "somebody else is the parent now"
""",
    "has open files of ours": """
    import os, stat
    kinds = []
    for descriptor in range(256):
        try:
            link = os.readlink(f"/proc/self/fd/{descriptor}") if os.path.exists("/proc") else ""
            kinds.append([descriptor, stat.S_IFMT(os.fstat(descriptor).st_mode), link])
        except OSError:
            pass
    pipes_and_null = (stat.S_IFIFO, stat.S_IFCHR)
    others = [kind for kind in kinds if kind[1] not in pipes_and_null]
    return others or (kinds if len(kinds) > 5 else None)
""",
    "finds a shell or a program of root's": """
    import os, stat
    found = []
    for folder, _, names in os.walk("/"):
        for name in names:
            try:
                mode = os.lstat(os.path.join(folder, name)).st_mode
            except OSError:
                continue
            privileged = mode & (stat.S_ISUID | stat.S_ISGID)
            if name in ("sh", "bash", "mount", "su", "curl") or privileged:
                found.append(name)
    return found or None
""",
    "knows the machine's name": """
    import os
    return os.uname().nodename if os.uname().nodename != "sandbox" else None
""",
    "takes precedence": """
    import os
    return os.nice(-5)
""",
    "traces a process": asks("101, 117, 16, 1, 0, 0"),
    "reads another process's memory": asks("310, 270, 1, 0, 0, 0, 0, 0"),
    "makes a namespace of users": asks("272, 97, 0x10000000"),
    "makes a namespace by clone": asks("56, 220, 0x10000000 | 17, 0, 0, 0, 0"),
    "makes a namespace by clone3": asks("435, 435, 0, 0"),
    "enters a namespace": asks("308, 268, 0, 0"),
    "mounts": asks("165, 40, 0, 0, 0, 0, 0"),
    "changes its root": asks("161, 51, b'/tmp'"),
    "opens a file by its handle": asks("304, 265, -1, 0, 0"),
    "loads a program into the kernel": asks("321, 280, 0, 0, 0"),
    "queues work for the kernel": asks("425, 425, 1, 0"),
    "watches the processor": asks("298, 241, 0, 0, -1, -1, 0"),
    "handles page faults": asks("323, 282, 0"),
    "reads the keyring": asks("250, 219, 0, -3, 0, 0, 0"),
    "reads the kernel's log": asks("103, 116, 10, 0, 0"),
    "shares memory by System V": asks("29, 194, 0, 4096, 0o1600"),
}

# Controls: the same attempts at permitted actions, to show that the probes detect success.
CONTROLS = {
    "reading": read("/tmp/candidate.py"),
    "listing": read("/tmp"),
    "writing": write("/tmp/left"),
    "asking the kernel": asks("39, 172"),
    "forking a little": PROBES["forks without end"].replace("< 200", "< 3").replace("> 32", "> 2"),
    "a few threads": PROBES["starts threads without end"]
    .replace("< 200", "< 3")
    .replace("> 32", "> 2"),
    "a little memory": "\n    return len(bytearray(2**20))\n",
    "memory of a few processes": PROBES["takes 1 GiB in many processes"]
    .replace("range(8)", "range(2)")
    .replace("128 * 2**20", "2**20")
    .replace(">= 1024", ">= 256"),
    "a little disk": PROBES["fills the disk"].replace("range(64)", "range(4)"),
    "seeing one's own processes": PROBES["sees processes outside"].replace("range(8,", "range(1,"),
    "an open file": PROBES["has open files of ours"].replace(
        "kinds = []", "kinds = []; kept = open('/tmp/candidate.py')"
    ),
    "finding the interpreter": PROBES["finds a shell or a program of root's"].replace(
        '"sh"', '"libpython3.so", "candidate.py"'
    ),
    "a secret": PROBES["finds a secret in its environment"].replace("SECRET", "HOME"),
}
