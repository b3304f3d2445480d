"""What stands for the service, or for both instances behind nginx: less than the service, under the same load."""

from bench.child import run
from bench.stack import INSTANCES, REPOSITORY, SCRIPTS, free_port

# What an nginx does with a POST that answers it by itself.
ANSWER = "return 202;"


def bare_nginx(stack):
    """An nginx with our configuration that answers a POST by itself. Returns its address."""
    return answering(stack, "bare")


def hollow(stack, answer=ANSWER, beside=""):
    """Two nginx in the place of the instances that answer a POST by themselves, or as is said, and ours before them. Returns its address."""
    name, folder = "hollow", stack.folder / "hollow"
    port, configuration = placed(folder)
    for instance in INSTANCES:
        answering(stack, f"{name}-{instance}", f"{folder}/{instance}.sock", answer, beside)
    stack.start_nginx(name, configuration, port, "/readyz")
    return f"http://127.0.0.1:{port}"


def answering(stack, name, socket=None, answer=ANSWER, beside=""):
    """One that answers by itself, or as is said, with what that needs beside it; at a socket too. Returns its address."""
    port, ours = placed(stack.folder / name)
    bare = ours.replace("proxy_pass http://$turn/payments;", answer).replace(f"unix:{stack.folder / name}/", f"unix:{stack.folder}/")
    assert bare.count(answer) == 1, "nginx.conf has the line that passes a POST on, once"
    bare = bare.replace("http {", f"http {{ {beside}", 1)
    if socket:
        bare = bare.replace("listen 127.0.0.1:", f"listen unix:{socket} backlog=4096; listen 127.0.0.1:")
    stack.start_nginx(name, bare, port, "/readyz")
    return f"http://127.0.0.1:{port}"


def placed(folder):
    """Our configuration with its files in that folder, which it makes. Returns its port, too."""
    port = free_port()
    folder.mkdir()
    return port, run([SCRIPTS / "nginx-config.sh", port, folder])


def least_program(folder):
    """The least that commits before it answers (least.c), which it makes in that folder."""
    program = folder / "least"
    headers = run(["pg_config", "--includedir"]).strip()
    run(["cc", "-O2", f"-I{headers}", "-o", program, REPOSITORY / "bench" / "least.c", "-lpq"])
    return program


def replace_instances(stack, program=None):
    """Starts both instances anew, or the least program in the place of each."""
    for name in INSTANCES:
        stack.stop_instance(name)
    for name in INSTANCES:
        stack.start_instance(name, program and [program, stack.socket(name), stack.url("payment_proxy", "payments")])
