"""The whole service on one machine: every program of the deployment as a child process, with stand-ins for AWS.

Started in the order of who needs whom, stopped in the reverse. When any child ends by itself, the stack ends.
"""

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from aiobotocore.session import get_session

from local.child import Child, start_child
from local.client_config import write_client_config
from local.enclave import SOURCE_ROOT
from local.foundation import ACCOUNT, REGION, Foundation, lay_foundation
from local.kms import KmsFaults
from local.layout import Layout
from local.ministack import MiniStack, run_ministack
from local.notify import ChildEndedError, notify_socket, until_ready
from local.resources import BIRTH_TABLE, KEY_TABLE, QueueUrls, make_queues, make_tables
from local.stack_facts import StackFacts
from local.stack_options import AwsEndpoints, StackOptions
from local.worker_config import write_worker_config
from protocol.address import Address
from protocol.channel import open_channel
from protocol.clock import system_clock
from protocol.errors import SignerError
from protocol.messages import NotReadyReason, Role
from protocol.version import SOFTWARE

MINISTACK_PYTHON_VARIABLE: Final = "NITRO_LOCAL_MINISTACK_PYTHON"

_WORKER_ACTIONS: Final = {Role.GENERATOR: "generate", Role.SIGNER: "sign"}
_WORKERS: Final = frozenset(f"{action}-worker" for action in _WORKER_ACTIONS.values())
_NITRO_SIGNER: Final = (sys.executable, "-m", "workers")
_START_TIMEOUT_S: Final = 100.0
_STOP_TIMEOUT_S: Final = 20.0
_PROBE_INTERVAL_S: Final = 0.05
_PROBE_TIMEOUT_S: Final = 5.0


class StackError(Exception):
    """The stack cannot start, or a part of it ended by itself; one line that names the part and its log."""


@dataclass(frozen=True, slots=True)
class KmsEndpoint:
    """Where the attesting KMS listens."""

    endpoint_url: str
    port: int
    ca_bundle: str
    host: str = "localhost"


class LocalStack:
    """A running stack. Made by `run_stack`.

    Attributes:
        layout: where it keeps its things.
        facts: what its clients need, once it has started.
        foundation: its KMS key and images, once it has started.
        emulator: its MiniStack; None when the options name other servers.
    """

    def __init__(
        self,
        layout: Layout,
        options: StackOptions,
        emulator: MiniStack | None,
        *,
        endpoints: AwsEndpoints,
        workers_see: AwsEndpoints,
    ) -> None:
        """Take where SQS and DynamoDB are, and where the workers believe that they are."""
        self.layout = layout
        self.facts: StackFacts
        self.foundation: Foundation
        self.emulator = emulator
        self._options = options
        self._endpoints = endpoints
        self._workers_see = workers_see
        self._children: dict[str, Child] = {}
        self._kms: KmsEndpoint

    @property
    def children(self) -> Mapping[str, Child]:
        """The programs by name, the emulator excepted; each as it was last started."""
        return self._children

    async def start(self) -> None:
        """Start everything, in order.

        Raises:
            StackError: names what did not start.
        """
        layout = self.layout
        queues = await _make_resources(self._endpoints)
        self.foundation = foundation = lay_foundation(layout, self._options.enclaves, now_s=system_clock())
        kms = self._kms = await self._start_kms()
        layout.allow_list.write_text(f"allowlist:\n- {{address: {kms.host}, port: {kms.port}}}\n")
        write_worker_config(layout, region=REGION, kms_key_arn=foundation.kms_key_arn, queues=queues)
        client_config = write_client_config(
            layout, region=REGION, queues=queues, generator_pcr0=foundation.pcr0[Role.GENERATOR]
        )
        failures: list[BaseException] = []
        try:
            async with asyncio.TaskGroup() as group:
                for role in Role:
                    group.create_task(self._start_instance(role))
        except* StackError as errors:
            failures.extend(errors.exceptions)
        if failures:
            raise failures[0]
        self.facts = StackFacts(
            endpoint_url=self._endpoints.sqs_url,
            dynamodb_endpoint_url=self._endpoints.dynamodb_url,
            region=REGION,
            generate_queue_url=queues.generate,
            generate_dead_letter_queue_url=queues.generate_dead_letter,
            sign_queue_url=queues.sign,
            sign_dead_letter_queue_url=queues.sign_dead_letter,
            reply_queue_url=queues.reply,
            table=KEY_TABLE,
            birth_table=BIRTH_TABLE,
            kms_endpoint_url=kms.endpoint_url,
            kms_key_arn=foundation.kms_key_arn,
            kms_ca_bundle=kms.ca_bundle,
            nitro_root=str(layout.nitro_root),
            generator_pcr0=foundation.pcr0[Role.GENERATOR].hex(),
            signer_pcr0=foundation.pcr0[Role.SIGNER].hex(),
            worker_config=str(layout.worker_config),
            client_config=str(client_config),
            pids={child.name: child.pid for child in self._everyone()},
        )

    def _everyone(self) -> Sequence[Child]:
        emulator = () if self.emulator is None else (self.emulator.child,)
        return (*emulator, *self._children.values())

    async def _start_instance(self, role: Role) -> None:
        """Start what runs on one instance of a deployment."""
        await self._start_proxy(role)
        await self._start_enclave(role)
        await self._start_worker(role)

    async def kill_and_restart(self, name: str) -> None:
        """End a proxy, an enclave or a worker with `kill -9`, and start it again as its supervisor would.

        Raises:
            StackError: it had ended by itself, or does not start again.
        """
        starts = {f"{role}-proxy": (self._start_proxy, role) for role in Role}
        starts |= {f"{role}-enclave": (self._start_enclave, role) for role in Role}
        starts |= {f"{action}-worker": (self._start_worker, role) for role, action in _WORKER_ACTIONS.items()}
        start, role = starts[name]
        child = self._children[name]
        if child.process.returncode is not None:
            raise self._ended(child)
        child.process.kill()
        await child.process.wait()
        await start(role)

    async def _start_kms(self) -> KmsEndpoint:
        layout = self.layout
        command = [sys.executable, "-m", "local.kms", "--state", str(layout.kms)]
        command += ["--nitro-root", str(layout.nitro_root), "--audit-file", str(layout.audit)]
        command += ["--region", REGION, "--account", ACCOUNT, "--port", str(layout.kms_port)]
        command += _kms_fault_arguments(self._options.kms_faults)
        command += self._options.enclaves.kms_arguments
        child = await self._start("kms", command, environ={}, stdout=asyncio.subprocess.PIPE)
        if child.process.stdout is None or not (line := await child.process.stdout.readline()):
            raise self._not_started(child)
        ready = json.loads(line)
        layout.keep_kms_port(ready["port"])
        return KmsEndpoint(endpoint_url=ready["endpoint_url"], port=ready["port"], ca_bundle=ready["ca_bundle"])

    async def _start_proxy(self, role: Role) -> None:
        kms = self._kms
        address = self.layout.proxy_address(role)
        command = [*_NITRO_SIGNER, "vsock-proxy", "--config", str(self.layout.allow_list), "--listen", str(address)]
        await self._start_notifying(f"{role}-proxy", [*command, kms.host, str(kms.port)], environ={})

    async def _start_enclave(self, role: Role) -> None:
        """Start an enclave, and ask it until it answers that it lacks nothing but what the worker brings."""
        platform = self._options.enclaves
        child = await self._start(f"{role}-enclave", platform.command(self.layout, role), environ=platform.environ)
        address = self.layout.enclave_address(role)
        await self._until(child, lambda: _has_started(address), timeout_s=platform.start_timeout_s)

    async def _start_worker(self, role: Role) -> None:
        action = _WORKER_ACTIONS[role]
        credentials = self.foundation.credentials[role]
        environ = {
            "AWS_REGION": REGION,
            "AWS_ENDPOINT_URL_SQS": self._workers_see.sqs_url,
            "AWS_ENDPOINT_URL_DYNAMODB": self._workers_see.dynamodb_url,
            "AWS_ACCESS_KEY_ID": credentials.access_key_id,
            "AWS_SECRET_ACCESS_KEY": credentials.secret_access_key,
            "AWS_SESSION_TOKEN": credentials.session_token,
            **self._options.worker_environ,
        }
        command = [*self._options.enclaves.worker_program, "worker", action, "--config", str(self.layout.worker_config)]
        await self._start_notifying(f"{action}-worker", command, environ=environ)

    async def _start_notifying(self, name: str, command: Sequence[str], *, environ: Mapping[str, str]) -> None:
        """Start a program that tells systemd when it is ready, and be its systemd."""
        path = self.layout.run / f"{name}-notify.sock"
        async with notify_socket(path) as ready:
            child = await self._start(name, command, environ={**environ, "NOTIFY_SOCKET": str(path)})
            try:
                await until_ready(child, ready, timeout_s=_START_TIMEOUT_S)
            except (ChildEndedError, TimeoutError) as error:
                raise self._not_started(child) from error

    async def _start(
        self, name: str, command: Sequence[str], *, environ: Mapping[str, str], stdout: int | None = None
    ) -> Child:
        """Start a program with an environment that has nothing but `PATH`, the given, and a log for what it prints."""
        with self.layout.log(name).open("ab") as log:
            child = await start_child(
                name,
                command,
                environ={"PATH": os.defpath, **environ},
                stdout=log.fileno() if stdout is None else stdout,
                stderr=log.fileno(),
            )
        self._children[name] = child
        return child

    async def _until(self, child: Child, probe: Callable[[], Awaitable[bool]], *, timeout_s: float) -> None:
        try:
            async with asyncio.timeout(timeout_s):
                while not await probe():
                    if child.process.returncode is not None:
                        raise self._not_started(child)
                    await asyncio.sleep(_PROBE_INTERVAL_S)
        except TimeoutError as error:
            raise self._not_started(child) from error

    def _not_started(self, child: Child) -> StackError:
        return StackError(f"{child.name} did not start: see {self.layout.log(child.name)}")

    async def stop(self) -> None:
        """Stop every child that was started: first the workers, which drain, then what they needed."""
        workers = [child for child in self._children.values() if child.name in _WORKERS]
        others = [child for child in self._children.values() if child.name not in _WORKERS]
        for children in (workers, others):
            async with asyncio.TaskGroup() as group:
                for child in children:
                    group.create_task(child.stop(timeout_s=_STOP_TIMEOUT_S))

    async def wait_for_failure(self) -> None:
        """Return never; raise when a child ends by itself.

        Raises:
            StackError: names the child and its log.
        """
        ended: asyncio.Queue[Child] = asyncio.Queue()

        async def watch(child: Child) -> None:
            await child.process.wait()
            ended.put_nowait(child)

        async with asyncio.TaskGroup() as group:
            watches = [group.create_task(watch(child)) for child in self._everyone()]
            first = await ended.get()
            for task in watches:
                task.cancel()
        raise self._ended(first)

    def _ended(self, child: Child) -> StackError:
        code = child.process.returncode
        return StackError(f"{child.name} ended by itself with code {code}: see {self.layout.log(child.name)}")


@contextlib.asynccontextmanager
async def run_stack(state: Path, options: StackOptions | None = None) -> AsyncGenerator[LocalStack, None]:
    """Start a stack in a state folder, and stop it at the end: workers first, the emulators last.

    Raises:
        StackError: something did not start.
        MiniStackError: the emulator did not.
    """
    layout = Layout.prepare(state)
    chosen = options or StackOptions()
    async with contextlib.AsyncExitStack() as parts:
        emulator, endpoints = None, chosen.endpoints
        if endpoints is None:
            emulator = await parts.enter_async_context(
                run_ministack(_ministack_python(), layout.emulator, log=layout.log("ministack"))
            )
            endpoints = AwsEndpoints(emulator.endpoint_url, emulator.endpoint_url)
        workers_see = endpoints
        if chosen.front is not None:
            workers_see = await parts.enter_async_context(chosen.front(endpoints))
        local = LocalStack(layout, chosen, emulator, endpoints=endpoints, workers_see=workers_see)
        parts.push_async_callback(local.stop)
        await local.start()
        yield local


def _ministack_python() -> Path:
    named = os.environ.get(MINISTACK_PYTHON_VARIABLE)
    return Path(named) if named else SOURCE_ROOT / ".venv-ministack" / "bin" / "python"


def _kms_fault_arguments(faults: KmsFaults) -> list[str]:
    return [
        part for name, value in asdict(faults).items() for part in (f"--fault-{name.replace('_', '-')}", str(value))
    ]


async def _make_resources(endpoints: AwsEndpoints) -> QueueUrls:
    session = get_session()
    session.set_credentials("local", "local")
    async with (
        session.create_client("sqs", region_name=REGION, endpoint_url=endpoints.sqs_url) as sqs,
        session.create_client("dynamodb", region_name=REGION, endpoint_url=endpoints.dynamodb_url) as dynamodb,
    ):
        await make_tables(dynamodb)
        return await make_queues(sqs)


async def _has_started(address: Address) -> bool:
    """Whether an enclave works, or lacks only the credentials that a worker brings."""
    try:
        async with open_channel(address, software=SOFTWARE, timeout_s=_PROBE_TIMEOUT_S) as channel:
            return channel.hello.reason in {None, NotReadyReason.NO_CREDENTIALS}
    except SignerError:
        return False
