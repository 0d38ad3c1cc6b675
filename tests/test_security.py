"""While a search runs, another user of the machine tries to run code as us, to read our files, and to be answered by
our servers.

The other user is `nobody`; that needs root. Its processes may read and enter every folder (CAP_DAC_READ_SEARCH), as
the Python that they run may lie where nobody cannot go.
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path

import psutil
import pytest

from dal_nb.bo.record import BOConfig, BOFolder
from dal_nb.config import RunConfig
from dal_nb.loop import run_al

TOOLS = [name for name in ("runuser", "setpriv", "curl") if not shutil.which(name)]
two_users = pytest.mark.skipif(
    os.geteuid() != 0 or bool(TOOLS), reason="needs root, to be another user, and runuser, setpriv, curl"
)
READ = "--inh-caps=+dac_read_search --ambient-caps=+dac_read_search"
NOBODY = f"setpriv --reuid=65534 --regid=65534 --clear-groups {READ}".split()
SLOW = RunConfig(
    model="mlp", width=8, epochs=20_000, n_init=20, acq_size=20, budget=40, lr=0.003
)  # minutes a fold: it runs until it is killed

JOIN = (
    "import sys; from ray.scripts.scripts import main; sys.argv = ['ray', 'start', '--address={address}', "
    "'--num-cpus=0', '--temp-dir={own}', '--node-name=other']; main()"
)
SUBMIT = """
import ray
from ray._private import services
to_connect = services.get_node_to_connect_for_driver
services.get_node_to_connect_for_driver = lambda gcs, *args, **kwargs: to_connect(gcs, node_name="other")
ray.init(address="{address}", log_to_driver=False)
@ray.remote(num_cpus={cpus}, max_retries=0)
def code():
    import os
    open("{evidence}", "w").write(str(os.getuid()))
ray.get(code.remote(), timeout=60)
"""


def start(bo: BOConfig, **env: str) -> subprocess.Popen:
    "A search in a process of its own."
    imports = "from dal_nb.bo.search import run_bo; from dal_nb.bo.record import BOConfig"
    code = f"{imports}; run_bo(BOConfig(**{asdict(bo)!r}), progress=False)"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH")}
    return subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**environment, **env},
    )


def family(process: subprocess.Popen) -> list:
    me = psutil.Process(process.pid)
    return [me, *me.children(recursive=True)]


def listening(process: subprocess.Popen) -> list[tuple[str, int]]:
    "Where the processes of a search listen."
    found = set()
    for member in family(process):
        try:
            sockets = member.net_connections("tcp")
        except psutil.Error:
            continue
        for s in sockets:
            if s.status == psutil.CONN_LISTEN:
                found.add(("127.0.0.1" if s.laddr.ip in ("::", "0.0.0.0") else s.laddr.ip, s.laddr.port))
    return sorted(found)


def argument(process: subprocess.Popen, name: str) -> str:
    "What Ray's daemons were given on their command line."
    for member in family(process):
        try:
            words = member.cmdline()
        except psutil.Error:
            continue
        for word in words:
            if word.startswith(f"--{name}="):
                return word.partition("=")[2]
    raise AssertionError(f"no --{name}")


@pytest.fixture(scope="module")
def search(tmp_path_factory):
    "A search at work, until the tests are over."
    root = tmp_path_factory.mktemp("runs")
    run = run_al(replace(SLOW, epochs=5, out_dir=str(root)), progress=False)
    record = run.path / "config.json"
    record.write_text(record.read_text().replace('"epochs": 5', '"epochs": 20000'))
    process = start(BOConfig(run_dir=str(run.path), n_trials=1000, n_folds=2))  # hours
    end = time.monotonic() + 180
    while not list((run.path / "bo40").glob("trials/*.json")) and process.poll() is None and time.monotonic() < end:
        time.sleep(0.2)
    assert process.poll() is None, process.communicate()[1]
    time.sleep(2)  # the worker listens
    yield process
    process.send_signal(signal.SIGINT)
    try:
        process.wait(60)
    except subprocess.TimeoutExpired:
        process.kill()


@two_users
@pytest.mark.parametrize(
    "authentication",
    [dict(RAY_AUTH_MODE="disabled"), dict(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN="0" * 64)],
    ids=["no token", "wrong token"],
)
def test_no_one_else_runs_code(search, authentication):
    "The other user's machine would join the cluster, and its task would run on ours, as us."
    own = Path(tempfile.mkdtemp(dir="/tmp"))  # short, and the other user's
    shutil.chown(own, 65534, 65534)
    words = dict(address=argument(search, "gcs-address"), own=own, evidence=own / "evidence", cpus=1e-3)
    environment = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0", "HOME": str(own), **authentication}
    try:
        for code, refusal in ((JOIN, "InvalidAuthToken"), (SUBMIT, "Failed to connect")):
            attack = subprocess.run(
                [*NOBODY, sys.executable, "-c", code.format(**words)],
                env=environment,
                cwd=own,
                capture_output=True,
                text=True,
                timeout=180,
            )
            assert attack.returncode and refusal in attack.stdout + attack.stderr, attack.stdout + attack.stderr
        assert not (own / "evidence").exists()
    finally:
        for process in psutil.process_iter(["uids"]):
            if process.info["uids"].real == 65534 and str(own) in " ".join(process.cmdline()):
                process.kill()
        shutil.rmtree(own, ignore_errors=True)
    assert search.poll() is None


@two_users
def test_no_one_else_reads_the_session(search):
    session = Path(argument(search, "session-dir"))
    private = session.parents[1]
    assert session.name.startswith("session_") and private.stat().st_mode & 0o777 == 0o700
    for command in (
        ["ls", session],
        ["ls", private],
        ["touch", private / "x"],
        ["touch", session / "sockets" / "x"],
        ["cat", session / "logs" / "raylet.out"],
    ):
        result = subprocess.run(["runuser", "-u", "nobody", "--", *map(str, command)], capture_output=True, text=True)
        assert result.returncode and "Permission denied" in result.stderr, result


@two_users
def test_the_token_is_on_no_command_line(search):
    (token,) = {
        member.environ().get("RAY_AUTH_TOKEN") for member in family(search) if member.name() in ("gcs_server", "raylet")
    }
    assert len(token) == 64
    shown = psutil.process_iter(["cmdline"])  # None for a process that is gone, or a zombie
    assert not [p for p in shown if token in " ".join(p.info["cmdline"] or [])]


METHODS = [
    "NodeInfoGcsService/GetAllNodeInfo",
    "InternalKVGcsService/InternalKVGet",
    "NodeManagerService/GetNodeStats",
    "NodeManagerService/RequestWorkerLease",
    "CoreWorkerService/PushTask",
    "CoreWorkerService/GetCoreWorkerStats",
    "ObjectManagerService/Pull",
    "RayletDriverService/x",
]
UNIMPLEMENTED, UNAUTHENTICATED = "12", "16"


def ask(place: tuple[str, int], path: str, *options: str) -> str:
    "What a server says to the other user, headers and all."
    command = [
        "runuser",
        "-u",
        "nobody",
        "--",
        "curl",
        "-sS",
        "-m",
        "10",
        "-i",
        *options,
        f"http://{place[0]}:{place[1]}/{path}",
    ]
    result = subprocess.run(command, capture_output=True, input=b"\0" * 5)
    return (result.stdout + result.stderr).decode(errors="replace")


def call(place: tuple[str, int], method: str) -> str:
    "The status of a gRPC call with an empty message; the words of curl where there is none."
    for _ in range(8):  # a server that answers before it has read everything may break the stream
        said = ask(
            place,
            f"ray.rpc.{method}",
            "--http2-prior-knowledge",
            "-H",
            "content-type: application/grpc",
            "-H",
            "te: trailers",
            "--data-binary",
            "@-",
        )
        status = [line.split()[1] for line in said.splitlines() if line.startswith("grpc-status:")]
        if status:
            return status[0]
    return said


@two_users
def test_every_port_refuses(search):
    "Each port of ours is a gRPC server that wants a token for its methods, or an HTTP server that says 401."
    places = listening(search)
    assert len(places) >= 4, places
    for place in places:
        web = ask(place, "get_or_create_runtime_env", "-X", "POST", "--data-binary", "@-")
        if web.startswith("HTTP/1.1"):
            assert web.startswith("HTTP/1.1 401"), web
            continue
        said = {method: call(place, method) for method in METHODS}
        refused = [method for method, status in said.items() if status == UNAUTHENTICATED]
        assert refused, (place, said)
        assert set(said.values()) - {UNAUTHENTICATED, UNIMPLEMENTED} <= {
            s for s in said.values() if s.startswith("curl: (92)")
        }, (place, said)


def commands_below(pid: int) -> str:
    "The command lines of all descendants of a process."
    found = []
    with suppress(psutil.NoSuchProcess):
        for child in psutil.Process(pid).children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                found += child.cmdline()
    return " ".join(found)


def test_long_temporary_folder(tmp_path):
    "The name of a socket has at most 107 bytes. Nothing is left behind."
    long = tmp_path / ("x" * max(1, 149 - len(str(tmp_path))))
    long.mkdir()
    assert len(str(long)) >= 150
    run = run_al(replace(SLOW, epochs=3, out_dir=str(tmp_path / "runs")), progress=False)
    bo = BOConfig(run_dir=str(run.path), n_trials=2, n_folds=2)
    process = start(bo, TMPDIR=str(long))
    mine = set()  # other tests may have a Ray of theirs
    while process.poll() is None:
        mine |= {p for p in Path("/tmp").glob("dal-*") if str(p) in commands_below(process.pid)}
        time.sleep(0.5)
    assert process.returncode == 0, process.communicate()[1]
    assert BOFolder(run.path / "bo40").is_complete
    assert mine and not [p for p in mine if p.exists()]


def test_authentication_of_a_cluster_of_others_is_kept():
    "What the environment says of Ray's authentication is used, and left as it was."
    from dal_nb.bo import search

    before = {name: value for name, value in os.environ.items() if name.startswith("RAY_AUTH")}
    token = "1" * 64
    seen = []
    init, shutdown = search.ray.init, search.ray.shutdown
    search.ray.init = lambda **options: seen.append(
        (options["address"], os.environ.get("RAY_AUTH_MODE"), os.environ.get("RAY_AUTH_TOKEN"))
    )
    search.ray.shutdown = lambda: None
    os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=token)
    try:
        with search.other_cluster("there:1"):
            pass
        assert seen == [("there:1", "token", token)]
        with search.own_cluster():
            pass
        assert seen[1][:2] == ("local", "token") and seen[1][2] not in (token, None)
        assert os.environ["RAY_AUTH_TOKEN"] == token
    finally:
        search.ray.init, search.ray.shutdown = init, shutdown
        for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN"):
            os.environ.pop(name)
        os.environ.update(before)
