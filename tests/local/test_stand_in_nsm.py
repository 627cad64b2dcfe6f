"""The stand-in NSM: as the module behaves, with real signatures under a root of its own."""

from __future__ import annotations

import hashlib
import stat
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from enclave.nsm import Nsm
from enclave.nsm_codec import NsmError, NsmErrorCode
from enclave.selftest import check_nsm
from local.measurements import DEBUG_MEASUREMENTS, digest_code, measure
from local.nitro_authority import NitroAuthority
from local.nsm import NsmFaults, StandInNsm
from protocol.attestation import (
    ABSENT,
    ANYTHING,
    AWS_NITRO_ROOT_G1,
    AtClock,
    AtOwnTime,
    AttestationError,
    DocumentPolicy,
    FailedCheck,
    VerifiedDocument,
    parse_document,
)
from protocol.attestation.cose import parse_cose_sign1
from protocol.cbor import decode, encode

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

START_S = 1_790_000_000.5
MEASUREMENTS = measure(b"config", b"code")
NO_DEMANDS = DocumentPolicy(pcrs=ANYTHING, nonce=ANYTHING, public_key=ANYTHING, user_data=ANYTHING, allow_debug=True)


class HandClock:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.now_s = START_S

    def __call__(self) -> float:
        """Return the time that the test has set."""
        return self.now_s


@pytest.fixture(scope="module")
def authority() -> NitroAuthority:
    """Give one root for the whole module."""
    return NitroAuthority.create(now_s=START_S)


@pytest.fixture
def clock() -> HandClock:
    """Give a clock at the start."""
    return HandClock()


@pytest.fixture
def stand_in(authority: NitroAuthority, clock: HandClock) -> StandInNsm:
    """Give a healthy module."""
    return StandInNsm(authority, MEASUREMENTS, clock=clock)


@pytest.fixture
async def nsm(stand_in: StandInNsm) -> AsyncIterator[Nsm]:
    """Give the module behind the enclave's own codec."""
    client = Nsm(stand_in)
    yield client
    client.close()


async def attested(nsm: Nsm, clock: HandClock) -> VerifiedDocument:
    """Return a fresh document, verified at the clock."""
    document = parse_document(await nsm.attest(user_data=None, nonce=None, public_key=None))
    return document.verify(nsm.trust_root, NO_DEMANDS, AtClock(now_s=clock(), max_age_s=1, max_future_s=1))


async def test_the_start_check_of_an_enclave_passes(nsm: Nsm) -> None:
    """The stand-in is healthy in the eyes of the code that runs on hardware."""
    facts = await check_nsm(nsm, allow_debug=False)
    assert facts.pcr0 == MEASUREMENTS.pcr0
    assert facts.module_id.startswith("i-0123456789abcdef0-enc")


async def test_a_document_verifies_to_the_stand_ins_root_only(nsm: Nsm, clock: HandClock) -> None:
    """All fields come through; a verifier with the AWS root refuses."""
    policy = DocumentPolicy(
        pcrs={0: [MEASUREMENTS.pcr0], 1: [MEASUREMENTS.pcr1], 2: [MEASUREMENTS.pcr2]},
        nonce=b"n" * 1024,
        public_key=b"p" * 1024,
        user_data=b"u" * 1024,
    )
    data = await nsm.attest(user_data=b"u" * 1024, nonce=b"n" * 1024, public_key=b"p" * 1024)
    verified = parse_document(data).verify(nsm.trust_root, policy, AtOwnTime())
    assert verified.timestamp_ms == int(clock() * 1000)
    with pytest.raises(AttestationError) as caught:
        parse_document(data).verify(AWS_NITRO_ROOT_G1, policy, AtOwnTime())
    assert caught.value.check == FailedCheck.ROOT


async def test_a_document_has_the_form_of_current_hardware(nsm: Nsm) -> None:
    """Untagged, indefinite payload map with the nine fields in order, four certificates in the bundle, 16 PCRs."""
    data = await nsm.attest(user_data=None, nonce=None, public_key=None)
    assert data[:9].hex() == "8444a1013822a0590f"
    payload = parse_cose_sign1(data).payload
    assert (payload[0], payload[-1]) == (0xBF, 0xFF)
    fields = decode(payload, allow_indefinite=True)
    names = "module_id digest timestamp pcrs certificate cabundle public_key user_data nonce"
    assert list(fields) == names.split()
    assert (len(fields["cabundle"]), list(fields["pcrs"])) == (4, list(range(16)))
    assert fields["pcrs"][4] == hashlib.sha384(bytes(48) + b"i-0123456789abcdef0").digest()
    assert fields["pcrs"][8] == bytes(48)


async def test_certificates_have_the_extensions_and_lifetimes_of_real_ones(nsm: Nsm) -> None:
    """Region 20 days, zone 6, instance 1, leaf 3 hours; path lengths 2, 1, 0; KeyUsage critical but on the leaf."""
    document = parse_document(await nsm.attest(user_data=None, nonce=None, public_key=None))
    chain = [x509.load_der_x509_certificate(der) for der in (*document.cabundle, document.certificate)]
    hours = [(item.not_valid_after_utc - item.not_valid_before_utc).total_seconds() / 3600 for item in chain]
    assert hours[1:] == [480, 144, 24, 3]
    constraints = [item.extensions.get_extension_for_class(x509.BasicConstraints) for item in chain]
    assert [item.value.path_length for item in constraints] == [None, 2, 1, 0, None]
    assert [item.value.ca for item in constraints] == [True, True, True, True, False]
    usages = [item.extensions.get_extension_for_class(x509.KeyUsage) for item in chain]
    assert [item.critical for item in usages] == [True, True, True, True, False]


async def test_a_long_running_module_gets_a_new_leaf_in_time(nsm: Nsm, clock: HandClock) -> None:
    """Over a month of hourly documents each verifies when it is made; the leaf is kept as long as it may be."""
    first = await attested(nsm, clock)
    clock.now_s += 3600
    second = await attested(nsm, clock)
    assert second.certificates_not_after == first.certificates_not_after
    for _ in range(720):
        clock.now_s += 3600
        await attested(nsm, clock)


async def test_a_clock_that_is_set_back_gets_a_new_leaf(nsm: Nsm, clock: HandClock) -> None:
    """A document is never older than its own certificate."""
    await attested(nsm, clock)
    clock.now_s -= 600
    await attested(nsm, clock)


async def test_free_pcrs_extend_and_lock_as_on_hardware(nsm: Nsm, clock: HandClock) -> None:
    """PCR16 is SHA-384(old || data), shows in documents only when locked, and then keeps its value."""
    value = await nsm.extend_pcr(16, b"data")
    assert value == hashlib.sha384(bytes(48) + b"data").digest()
    assert 16 not in (await attested(nsm, clock)).pcrs
    await nsm.lock_pcr(16)
    assert (await attested(nsm, clock)).pcrs[16] == value
    with pytest.raises(NsmError) as caught:
        await nsm.extend_pcr(16, b"more")
    assert caught.value.code == NsmErrorCode.READ_ONLY_INDEX
    assert (await nsm.describe_pcr(16)).value == value
    await nsm.lock_pcrs(20)
    assert (await nsm.describe()).locked_pcrs == frozenset(range(20))
    assert list((await attested(nsm, clock)).pcrs) == list(range(20))


@pytest.mark.parametrize("index", [0, 4, 15])
async def test_boot_pcrs_are_locked(nsm: Nsm, index: int) -> None:
    """PCR0 to PCR15 can be neither extended nor locked again."""
    for attempt in (nsm.extend_pcr(index, b"x"), nsm.lock_pcr(index)):
        with pytest.raises(NsmError) as caught:
            await attempt
        assert caught.value.code == NsmErrorCode.READ_ONLY_INDEX


@pytest.mark.parametrize(
    ("request_value", "code"),
    [
        ({"DescribePCR": {"index": 32}}, "InvalidIndex"),
        ({"DescribePCR": {"index": -1}}, "InvalidIndex"),
        ({"DescribePCR": {"index": "0"}}, "InvalidArgument"),
        ({"DescribePCR": {}}, "InvalidArgument"),
        ({"ExtendPCR": {"index": 16, "data": "text"}}, "InvalidArgument"),
        ({"LockPCR": {"index": True}}, "InvalidArgument"),
        ({"LockPCRs": {"range": 33}}, "InvalidArgument"),
        ({"LockPCRs": {}}, "InvalidArgument"),
        ({"Attestation": {"user_data": "text"}}, "InvalidArgument"),
        ({"Attestation": {"nonce": bytes(1025)}}, "InputTooLarge"),
        ({"Attestation": {"nonce": bytes(4097)}}, "InputTooLarge"),
        ({"DescribePCR": 1}, "InvalidOperation"),
        ({"Unknown": {}}, "InvalidOperation"),
        ({"DescribePCR": {"index": 0}, "GetRandom": {}}, "InvalidOperation"),
        ({1: {}}, "InvalidOperation"),
        ("Unknown", "InvalidOperation"),
        (7, "InvalidOperation"),
    ],
)
def test_bad_requests_are_refused_with_the_modules_codes(
    stand_in: StandInNsm, request_value: object, code: str
) -> None:
    """Nothing that an enclave sends ends the module; the answer is one of the closed codes."""
    assert decode(stand_in(encode(request_value))) == {"Error": code}


def test_bytes_that_are_no_cbor_are_refused(stand_in: StandInNsm) -> None:
    """The answer to nonsense is an error response as well."""
    assert decode(stand_in(b"\xff")) == {"Error": "InvalidOperation"}


async def test_debug_measurements_are_refused_by_a_verifier(authority: NitroAuthority, clock: HandClock) -> None:
    """A stand-in enclave in debug mode fails where debug mode is not allowed."""
    nsm = Nsm(StandInNsm(authority, DEBUG_MEASUREMENTS, clock=clock))
    document = parse_document(await nsm.attest(user_data=None, nonce=None, public_key=None))
    strict = DocumentPolicy(pcrs=ANYTHING, nonce=ABSENT, public_key=ABSENT, user_data=ABSENT)
    with pytest.raises(AttestationError) as caught:
        document.verify(nsm.trust_root, strict, AtOwnTime())
    assert caught.value.check == FailedCheck.DEBUG
    nsm.close()


def _outcomes(authority: NitroAuthority, faults: NsmFaults) -> list[bool]:
    module = StandInNsm(authority, MEASUREMENTS, clock=HandClock(), faults=faults)
    return [b"Error" in module(encode("GetRandom")) for _ in range(64)]


def test_faults_come_as_told_and_can_be_repeated(authority: NitroAuthority) -> None:
    """The same seed fails the same requests; another seed others; rate 1 all; rate 0 none."""
    some = NsmFaults(rate=0.5, error=NsmErrorCode.INTERNAL_ERROR, seed=1)
    outcomes = _outcomes(authority, some)
    assert outcomes == _outcomes(authority, some)
    assert outcomes != _outcomes(authority, NsmFaults(rate=0.5, error=NsmErrorCode.INTERNAL_ERROR, seed=2))
    assert all(_outcomes(authority, NsmFaults(error=NsmErrorCode.INTERNAL_ERROR)))
    assert not any(_outcomes(authority, NsmFaults(rate=0, error=NsmErrorCode.INTERNAL_ERROR)))


async def test_a_delay_meets_the_clients_deadline(authority: NitroAuthority, clock: HandClock) -> None:
    """A slow module is a timed-out one for a client with less patience."""
    nsm = Nsm(StandInNsm(authority, MEASUREMENTS, clock=clock, faults=NsmFaults(delay_s=0.2)), deadline_s=0.01)
    with pytest.raises(NsmError) as caught:
        await nsm.describe()
    assert caught.value.code == NsmErrorCode.TIMED_OUT
    nsm.close()


def test_the_root_is_made_once_and_kept_private(tmp_path: Path) -> None:
    """A second start has the same root; the key file is for its owner only; no draft is left."""
    first = NitroAuthority.in_folder(tmp_path / "state", now_s=START_S)
    second = NitroAuthority.in_folder(tmp_path / "state", now_s=START_S + 1e6)
    assert first.trust_root == second.trust_root
    assert first.certificate_pem == second.certificate_pem
    [folder] = (tmp_path / "state").iterdir()
    assert stat.S_IMODE((folder / "root.key").stat().st_mode) == 0o600
    assert sorted(file.name for file in folder.iterdir()) == ["root.key", "root.pem"]


PRINT_ROOT = """
import sys, pathlib
from local.nitro_authority import NitroAuthority
sys.stdin.read()
print(NitroAuthority.in_folder(pathlib.Path(sys.argv[1]), now_s=float(sys.argv[2])).trust_root.fingerprint.hex())
"""


def test_processes_that_start_together_agree_on_one_root(tmp_path: Path) -> None:
    """Whoever loses the race for the first start takes the winner's root."""
    command = [sys.executable, "-c", PRINT_ROOT, str(tmp_path), str(START_S)]
    processes = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    for process in processes:
        assert process.stdin is not None
        process.stdin.close()  # the go: each has imported what it needs, or is about to
        process.stdin = None
    outputs = [process.communicate()[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * 4
    assert (len(set(outputs)), len(outputs[0])) == (1, 65)
    assert [entry.name for entry in tmp_path.iterdir()] == ["nitro-root"]


def test_the_loser_of_the_race_takes_the_winners_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder appears between the look and the rename: the draft is thrown away."""
    winner = NitroAuthority.create(now_s=START_S)
    create = NitroAuthority.create

    def overtaken(*, now_s: float) -> NitroAuthority:
        (tmp_path / "nitro-root").mkdir()
        winner.write(tmp_path / "nitro-root")
        return create(now_s=now_s)

    monkeypatch.setattr(NitroAuthority, "create", overtaken)
    assert NitroAuthority.in_folder(tmp_path, now_s=START_S).trust_root == winner.trust_root
    assert [entry.name for entry in tmp_path.iterdir()] == ["nitro-root"]


def test_a_key_of_another_kind_is_refused(tmp_path: Path) -> None:
    """A state folder with a foreign key in it is an error, not a root."""
    NitroAuthority.in_folder(tmp_path, now_s=START_S)
    key = ed25519.Ed25519PrivateKey.generate()
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (tmp_path / "nitro-root" / "root.key").write_bytes(pem)
    with pytest.raises(TypeError, match="not an EC key"):
        NitroAuthority.in_folder(tmp_path, now_s=START_S)


def test_a_state_folder_that_cannot_be_written_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A failure that is no lost race is told, and leaves no draft."""

    def full(*, now_s: float) -> NitroAuthority:
        raise OSError(28, f"no space at {now_s}")

    monkeypatch.setattr(NitroAuthority, "create", full)
    with pytest.raises(OSError, match="no space"):
        NitroAuthority.in_folder(tmp_path, now_s=START_S)
    assert list(tmp_path.iterdir()) == []


def test_measurements_tell_config_and_code_apart() -> None:
    """PCR0 and PCR2 change with either; PCR1, of kernel and boot, never does; concatenation cannot be played with."""
    same, other_config, other_code = measure(b"a", b"b"), measure(b"A", b"b"), measure(b"a", b"B")
    assert same == measure(b"a", b"b")
    assert len({same.pcr0, other_config.pcr0, other_code.pcr0, measure(b"ab", b"").pcr0}) == 4
    assert len({same.pcr2, other_config.pcr2, other_code.pcr2}) == 3
    assert same.pcr1 == other_config.pcr1 == other_code.pcr1
    assert {len(value) for value in (same.pcr0, same.pcr1, same.pcr2)} == {48}


def test_the_code_digest_sees_contents_names_and_new_files(tmp_path: Path) -> None:
    """Any change to the measured packages is another digest; other packages do not count."""
    for package in ("config", "enclave", "protocol", "workers"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "a.py").write_text("1")
    seen = {digest_code(tmp_path)}
    (tmp_path / "workers" / "a.py").write_text("2")
    assert digest_code(tmp_path) in seen
    (tmp_path / "enclave" / "a.py").write_text("2")
    seen.add(digest_code(tmp_path))
    (tmp_path / "enclave" / "a.py").rename(tmp_path / "enclave" / "b.py")
    seen.add(digest_code(tmp_path))
    (tmp_path / "protocol" / "deep").mkdir()
    (tmp_path / "protocol" / "deep" / "c.py").touch()
    seen.add(digest_code(tmp_path))
    assert len(seen) == 4
