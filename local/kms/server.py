"""The HTTPS shell: aiohttp around `KmsService`, with its faults."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from aiohttp import web

from local.kms.errors import KmsError
from local.kms.faults import Fault, FaultSequence, KmsFaults
from local.kms.keystore import KeyStore
from local.kms.principals import PrincipalRegistry
from local.kms.recipients import DocumentVerifier
from local.kms.requests import MAX_DOCUMENT_BYTES
from local.kms.service import KmsService
from local.kms.sigv4 import SignedRequest
from local.tls import kms_tls
from protocol.attestation import TrustRoot
from protocol.clock import Clock

_MAX_BODY_BYTES: Final = 2 * MAX_DOCUMENT_BYTES
"""The largest document in base64, and room for the rest."""

_SHUTDOWN_TIMEOUT_S: Final = 1.0
_CONTENT_TYPE: Final = "application/x-amz-json-1.1"


@dataclass(frozen=True, slots=True, kw_only=True)
class KmsSettings:
    """Where the stand-in keeps its things, where it listens, whose enclaves it believes."""

    state_dir: Path
    nitro_roots: Sequence[TrustRoot]
    region: str = "us-east-1"
    account: str = "000000000000"
    host: str = "127.0.0.1"
    port: int = 0
    """0 takes a free one."""

    faults: KmsFaults = field(default_factory=KmsFaults)

    dangerous_accept_qemu_documents: bool = False
    """Take the unsigned documents of a virtual machine, which anybody can write. For tests of that machine only."""

    def __post_init__(self) -> None:
        if not self.nitro_roots:
            raise ValueError("at least one root of Nitro documents")


class AttestingKms:
    """The server. Use as `async with AttestingKms(settings, clock=…, write_audit=…) as kms`."""

    def __init__(self, settings: KmsSettings, *, clock: Clock, write_audit: Callable[[str], None]) -> None:
        self._settings = settings
        settings.state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        region = settings.region
        self._tls = kms_tls(settings.state_dir, region, now_s=clock())
        self._service = KmsService(
            KeyStore(settings.state_dir, region=region, account=settings.account),
            PrincipalRegistry(settings.state_dir, account=settings.account),
            DocumentVerifier(
                settings.nitro_roots,
                clock,
                dangerous_accept_qemu_documents=settings.dangerous_accept_qemu_documents,
            ),
            region=region,
            account=settings.account,
            clock=clock,
            write_audit=write_audit,
        )
        self._faults = FaultSequence(settings.faults)
        self._runner: web.AppRunner | None = None

    async def __aenter__(self) -> Self:
        application = web.Application(client_max_size=_MAX_BODY_BYTES)
        application.router.add_post("/", self._serve)
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=_SHUTDOWN_TIMEOUT_S)
        await self._runner.setup()
        site = web.TCPSite(
            self._runner,
            self._settings.host,
            self._settings.port,
            ssl_context=self._tls.server_context(),
        )
        try:
            await site.start()
        except OSError:
            await self._runner.cleanup()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    @property
    def port(self) -> int:
        """The port that it listens on."""
        if self._runner is None:
            raise RuntimeError("the server does not run")
        return int(self._runner.addresses[0][1])

    @property
    def endpoint_url(self) -> str:
        """The address for AWS clients, by a name in the certificate."""
        return f"https://localhost:{self.port}"

    @property
    def ca_bundle(self) -> Path:
        """The CA that clients have to trust, PEM."""
        return self._tls.ca_bundle

    async def _serve(self, request: web.Request) -> web.Response:
        if self._settings.faults.delay_s:
            await asyncio.sleep(self._settings.faults.delay_s)
        fault = self._faults.next()
        body = await request.read()
        if fault is Fault.DROP and request.transport is not None:
            request.transport.abort()
        signed = SignedRequest(
            method=request.method,
            path=request.raw_path,
            headers={name.lower(): value for name, value in request.headers.items()},
            body=body,
        )
        answer = self._service.handle(signed, source_ip=request.remote or "", injected=self._injected(fault))
        return web.Response(
            status=answer.status,
            body=answer.body,
            headers={"Content-Type": _CONTENT_TYPE, "x-amzn-RequestId": answer.request_id},
        )

    def _injected(self, fault: Fault) -> KmsError | None:
        match fault:
            case Fault.THROTTLE:
                return KmsError("ThrottlingException", "Rate exceeded")
            case Fault.REFUSE:
                return KmsError(self._settings.faults.refuse_code, "refused by a fault that was asked for")
            case Fault.NONE | Fault.DROP:
                return None
