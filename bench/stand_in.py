"""What stands for the service, or for both instances behind nginx: less than the service, under the same load."""

from bench.child import run
from bench.stack import INSTANCES, REPOSITORY, free_port

# What an nginx does with a POST that answers it by itself.
ANSWER = "return 202;"


def bare_nginx(stack):
    """An nginx with our configuration that answers a POST by itself. Returns its address."""
    name, port = "bare", free_port()
    folder = stack.folder / name
    folder.mkdir()
    ours = stack.nginx_configuration(port, folder)
    bare = ours.replace("proxy_pass http://$posts/payments;", ANSWER).replace(
        f"unix:{folder}/", f"unix:{stack.folder}/"
    )
    assert bare.count(ANSWER) == 1, "nginx-rules.conf has the line that passes a POST on, once"
    stack.start_nginx(name, bare, port, "/readyz")
    return f"http://127.0.0.1:{port}"


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
        stack.start_instance(
            name, program and [program, stack.socket(name), stack.url("payment_proxy", "payments")]
        )
