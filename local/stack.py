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
from typing import Final, Self

from aiobotocore.session import get_session

from local.child import Child, start_child
from local.enclave import SOURCE_ROOT
from local.foundation import ACCOUNT, REGION, Foundation, lay_foundation
from local.layout import Layout
from local.ministack import MiniStack, run_ministack
from local.notify import ChildEndedError, notify_socket, until_ready
from local.resources import BIRTH_TABLE, KEY_TABLE, QueueUrls, make_queues, make_tables
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
_START_TIMEOUT_S: Final = 30.0
_STOP_TIMEOUT_S: Final = 20.0
_PROBE_INTERVAL_S: Final = 0.05
_PROBE_TIMEOUT_S: Final = 5.0


class StackError(Exception):
    """The stack cannot start, or a part of it ended by itself; one line that names the part and its log."""


@dataclass(frozen=True, slots=True)
class StackFacts:
    """What a client of the stack needs. `nitro-local up` prints it as one JSON line."""

    endpoint_url: str
    region: str
    generate_queue_url: str
    generate_dead_letter_queue_url: str
    sign_queue_url: str
    sign_dead_letter_queue_url: str
    reply_queue_url: str
    table: str
    birth_table: str
    kms_endpoint_url: str
    kms_key_arn: str
    kms_ca_bundle: str
    nitro_root: str
    generator_pcr0: str
    signer_pcr0: str
    worker_config: str
    pids: dict[str, int]

    def to_json(self) -> str:
        """Return one line."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, line: str) -> Self:
        """Read what `to_json` wrote."""
        return cls(**json.loads(line))

    def to_environ(self) -> dict[str, str]:
        """Return the variables with which any AWS client, and `nitro-signer`, talk to this stack."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint_url,
            "AWS_ENDPOINT_URL_KMS": self.kms_endpoint_url,
            "AWS_CA_BUNDLE": self.kms_ca_bundle,
            "AWS_REGION": self.region,
            "AWS_DEFAULT_REGION": self.region,
            "AWS_ACCESS_KEY_ID": "local",
            "AWS_SECRET_ACCESS_KEY": "local",
            "NITRO_SIGNER_CONFIG": self.worker_config,
            "GENERATE_QUEUE_URL": self.generate_queue_url,
            "SIGN_QUEUE_URL": self.sign_queue_url,
            "REPLY_QUEUE_URL": self.reply_queue_url,
        }


@dataclass(frozen=True, slots=True)
class KmsEndpoint:
    """Where the attesting KMS listens."""

    endpoint_url: str
    port: int
    ca_bundle: str
    host: str = "localhost"


class LocalStack:
    """A running stack. Made by `run_stack`."""

    def __init__(self, layout: Layout, ministack: MiniStack) -> None:
        self.layout = layout
        self.facts: StackFacts
        self.foundation: Foundation
        self._endpoint_url = ministack.endpoint_url
        self._emulator = ministack.child
        self._children: list[Child] = []

    async def start(self) -> None:
        """Start everything, in order.

        Raises:
            StackError: names what did not start.
        """
        layout = self.layout
        queues = await _make_resources(self._endpoint_url)
        self.foundation = foundation = lay_foundation(layout, now_s=system_clock())
        kms = await self._start_kms()
        layout.allow_list.write_text(f"allowlist:\n- {{address: {kms.host}, port: {kms.port}}}\n")
        write_worker_config(layout, region=REGION, kms_key_arn=foundation.kms_key_arn, queues=queues)
        failures: list[BaseException] = []
        try:
            async with asyncio.TaskGroup() as group:
                for role in Role:
                    group.create_task(self._start_instance(role, kms))
        except* StackError as errors:
            failures.extend(errors.exceptions)
        if failures:
            raise failures[0]
        self.facts = StackFacts(
            endpoint_url=self._endpoint_url,
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
            pids={child.name: child.pid for child in (self._emulator, *self._children)},
        )

    async def _start_instance(self, role: Role, kms: KmsEndpoint) -> None:
        """Start what runs on one instance of a deployment."""
        await self._start_proxy(role, kms)
        await self._start_enclave(role)
        await self._start_worker(role)

    async def _start_kms(self) -> KmsEndpoint:
        layout = self.layout
        command = [sys.executable, "-m", "local.kms", "--state", str(layout.kms)]
        command += ["--nitro-root", str(layout.nitro_root), "--audit-file", str(layout.audit)]
        command += ["--region", REGION, "--account", ACCOUNT, "--port", str(layout.kms_port)]
        child = await self._start("kms", command, environ={}, stdout=asyncio.subprocess.PIPE)
        if child.process.stdout is None or not (line := await child.process.stdout.readline()):
            raise self._not_started(child)
        ready = json.loads(line)
        layout.keep_kms_port(ready["port"])
        return KmsEndpoint(endpoint_url=ready["endpoint_url"], port=ready["port"], ca_bundle=ready["ca_bundle"])

    async def _start_proxy(self, role: Role, kms: KmsEndpoint) -> None:
        address = self.layout.proxy_address(role)
        command = [*_NITRO_SIGNER, "vsock-proxy", "--config", str(self.layout.allow_list), "--listen", str(address)]
        await self._start_notifying(f"{role}-proxy", [*command, kms.host, str(kms.port)], environ={})

    async def _start_enclave(self, role: Role) -> None:
        """Start an enclave, and ask it until it answers that it lacks only what the worker will bring."""
        config = self.layout.enclave_config(role)
        command = [sys.executable, "-m", "local.enclave", str(config), "--state", str(self.layout.nitro)]
        child = await self._start(f"{role}-enclave", command, environ={})
        await self._until(child, lambda: _waits_for_credentials(self.layout.enclave_address(role)))

    async def _start_worker(self, role: Role) -> None:
        action = _WORKER_ACTIONS[role]
        credentials = self.foundation.credentials[role]
        environ = {
            "AWS_REGION": REGION,
            "AWS_ENDPOINT_URL": self._endpoint_url,
            "AWS_ACCESS_KEY_ID": credentials.access_key_id,
            "AWS_SECRET_ACCESS_KEY": credentials.secret_access_key,
            "AWS_SESSION_TOKEN": credentials.session_token,
        }
        command = [*_NITRO_SIGNER, "worker", action, "--config", str(self.layout.worker_config)]
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
        self._children.append(child)
        return child

    async def _until(self, child: Child, probe: Callable[[], Awaitable[bool]]) -> None:
        try:
            async with asyncio.timeout(_START_TIMEOUT_S):
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
        workers = [child for child in self._children if child.name in _WORKERS]
        others = [child for child in self._children if child.name not in _WORKERS]
        for children in (workers, others):
            async with asyncio.TaskGroup() as group:
                for child in children:
                    group.create_task(child.stop(timeout_s=_STOP_TIMEOUT_S))

    async def wait_for_failure(self) -> None:
        """Return never; raise when a child ends by itself.

        Raises:
            StackError: names the child and its log.
        """
        async with asyncio.TaskGroup() as group:
            waits = {group.create_task(child.process.wait()): child for child in (self._emulator, *self._children)}
            done, pending = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            for task in pending:
                task.cancel()
        child = waits[done.pop()]
        code = child.process.returncode
        raise StackError(f"{child.name} ended by itself with code {code}: see {self.layout.log(child.name)}")


@contextlib.asynccontextmanager
async def run_stack(state: Path) -> AsyncGenerator[LocalStack, None]:
    """Start a stack in a state folder, and stop it at the end: workers first, the emulators last.

    Raises:
        StackError: something did not start.
        MiniStackError: the emulator did not.
    """
    layout = Layout.prepare(state)
    async with run_ministack(_ministack_python(), layout.emulator, log=layout.log("ministack")) as ministack:
        local = LocalStack(layout, ministack)
        try:
            await local.start()
            yield local
        finally:
            await local.stop()


def _ministack_python() -> Path:
    named = os.environ.get(MINISTACK_PYTHON_VARIABLE)
    return Path(named) if named else SOURCE_ROOT / ".venv-ministack" / "bin" / "python"


async def _make_resources(endpoint_url: str) -> QueueUrls:
    session = get_session()
    session.set_credentials("local", "local")
    async with (
        session.create_client("sqs", region_name=REGION, endpoint_url=endpoint_url) as sqs,
        session.create_client("dynamodb", region_name=REGION, endpoint_url=endpoint_url) as dynamodb,
    ):
        await make_tables(dynamodb)
        return await make_queues(sqs)


async def _waits_for_credentials(address: Address) -> bool:
    """Whether an enclave has started: what it then lacks is the credentials that only a worker brings."""
    try:
        async with open_channel(address, software=SOFTWARE, timeout_s=_PROBE_TIMEOUT_S) as channel:
            return channel.hello.reason is NotReadyReason.NO_CREDENTIALS
    except SignerError:
        return False
