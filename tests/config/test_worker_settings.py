"""Worker settings: one file, variables over it, unknown keys refused, one line for each mistake."""

from pathlib import Path

import pytest

from config.worker import MAX_CONFIG_BYTES, WorkerConfigError, load_worker_settings
from protocol.address import UnixAddress, VsockAddress

QUEUES = "https://sqs.eu-central-1.amazonaws.com/111122223333"
KEY_ARN = "arn:aws:kms:eu-central-1:111122223333:key/6f1c1d52-0000-4000-8000-000000000001"
WHOLE = f"""
region = "eu-central-1"
kms_key_arn = "{KEY_ARN}"

[generate]
enclaves = ["vsock://17:5000"]
[generate.engine]
queue_url = "{QUEUES}/generate"
reply_queue_url = "{QUEUES}/reply"
dead_letter_queue_url = "{QUEUES}/generate-dlq"

[sign]
enclaves = ["vsock://16:5000", "unix:///run/signer.sock"]
[sign.engine]
queue_url = "{QUEUES}/sign"
reply_queue_url = "{QUEUES}/reply"
slots = 40

[store]
cache_records = 1000
"""


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """No variable of the machine reaches these tests."""
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION", "NITRO_SIGNER_CONFIG"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A good file."""
    path = tmp_path / "worker.toml"
    path.write_text(WHOLE)
    return path


def message_of(path: Path) -> str:
    """Return the one line that refuses the file, without the path that it begins with."""
    with pytest.raises(WorkerConfigError) as caught:
        load_worker_settings(path)
    text = str(caught.value)
    assert "\n" not in text
    return text.removeprefix(f"{path}: ")


def test_a_file_becomes_one_frozen_value(path: Path) -> None:
    """Everything of the file is there, with defaults for the rest."""
    settings = load_worker_settings(path)
    assert settings.role("sign").enclaves == (VsockAddress(16, 5000), UnixAddress("/run/signer.sock"))
    assert settings.role("sign").engine.slots == 40
    assert settings.role("generate").engine.dead_letter_queue_url == f"{QUEUES}/generate-dlq"
    assert settings.store.cache_records == 1000
    assert settings.store.table == "UserToken"
    with pytest.raises(ValueError, match="frozen"):
        settings.region = "us-east-1"  # type: ignore[misc]  # what must fail


def test_variables_override_the_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each key has a variable; numbers, texts and arrays have the types that the file would give them."""
    monkeypatch.setenv("NITRO_SIGNER_REGION", "us-east-1")
    monkeypatch.setenv("NITRO_SIGNER_SIGN__ENGINE__SLOTS", "77")
    monkeypatch.setenv("NITRO_SIGNER_STORE__TABLE", "OtherTable")
    monkeypatch.setenv("NITRO_SIGNER_GENERATE__ENCLAVES", '["unix:///run/generator.sock"]')
    monkeypatch.setenv("NITRO_SIGNER_CONFIG", str(path))
    settings = load_worker_settings(path)
    assert settings.region == "us-east-1"
    assert settings.role("sign").engine.slots == 77
    assert settings.role("sign").engine.queue_url == f"{QUEUES}/sign"
    assert settings.store.table == "OtherTable"
    assert settings.store.cache_records == 1000
    assert settings.role("generate").enclaves == (UnixAddress("/run/generator.sock"),)


@pytest.mark.parametrize("name", ["AWS_REGION", "AWS_DEFAULT_REGION"])
def test_the_region_may_be_that_of_every_aws_tool(path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """AWS's variables give the Region where the file does not, and do not override it where it does."""
    monkeypatch.setenv(name, "ap-south-1")
    assert load_worker_settings(path).region == "eu-central-1"
    path.write_text(WHOLE.replace('region = "eu-central-1"', ""))
    assert load_worker_settings(path).region == "ap-south-1"


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("NITRO_SIGNER_REGON", "x", "NITRO_SIGNER_REGON: unknown variable"),
        ("NITRO_SIGNER_SIGN__ENGINE__SLOTZ", "7", "sign.engine.slotz: unknown field"),
        ("NITRO_SIGNER_SIGN__ENGINE__SLOTS", "many", "sign.engine.slots: Input should be a valid integer"),
        ("NITRO_SIGNER_SIGN__ENCLAVES", "vsock://16:5000", "sign.enclaves: Input should be a valid tuple"),
    ],
)
def test_a_wrong_variable_is_named(
    path: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str, message: str
) -> None:
    """A misspelt variable is no silent default."""
    monkeypatch.setenv(name, value)
    assert message_of(path) == message


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[store]", "colour = 1\n[store]", "sign.engine.colour: unknown field"),
        ("[store]", "[stor]\n", "stor: unknown field"),
        ('region = "eu-central-1"', "", "region: field is missing"),
        ('region = "eu-central-1"', "region = 1", "region: Input should be a valid string"),
        ("slots = 40", 'slots = "40"', "sign.engine.slots: Input should be a valid integer"),
        ('"vsock://17:5000"', '"vsock://any:5000"', "generate.enclaves.0: to connect to an enclave its CID is needed"),
        ('"vsock://17:5000"', '"tcp://x"', "an address is vsock://CID:PORT or unix:///path"),
        ('"vsock://17:5000"', "17", "generate.enclaves.0: an address is a string"),
        ('"vsock://17:5000"', '"vsock://16:5000"', "generator and signer are different enclaves"),
        ('"vsock://17:5000"', '"vsock://17:5000", "vsock://17:5000"', "generate: enclaves: each address once"),
        (f"{QUEUES}/sign", f"{QUEUES}/generate", "two different queues"),
        ("[store]", '[brakes]\ntable = "UserToken"\n[store]', "brakes.table: another table than those of store"),
        (KEY_ARN, "alias/mine", "'alias/mine' is not a KMS key ARN"),
        ("cache_records = 1000", 'table = "T_1"\nbirth_table = "T_1"', "birth_table: another table than table"),
        ("cache_records = 1000", "cache_records = -1", "store.cache_records: Input should be greater than or equal"),
        ("[store]", "[enclave]\ncall_timeout_s = 200\n[store]", "generate.engine.handler_timeout_s: more than enclave"),
        ("[store]", "[store", "not TOML"),
    ],
)
def test_a_wrong_key_is_named(path: Path, old: str, new: str, message: str) -> None:
    """Each mistake is one line that names the key and says what is allowed."""
    path.write_text(WHOLE.replace(old, new))
    assert message in message_of(path)


def test_one_kind_of_worker_is_enough_and_the_other_is_missing_by_name(path: Path) -> None:
    """A machine that only signs has no generate table; asking for it says so."""
    path.write_text(WHOLE[: WHOLE.index("[generate]")] + WHOLE[WHOLE.index("[sign]") :])
    settings = load_worker_settings(path)
    with pytest.raises(WorkerConfigError, match="generate: table is missing"):
        settings.role("generate")


def test_a_file_without_workers_is_refused(path: Path) -> None:
    """Settings for nothing are a mistake."""
    path.write_text('region = "eu-central-1"')
    assert message_of(path) == "generate, sign: at least one of these tables"


def test_an_unreadable_file_is_one_line(tmp_path: Path) -> None:
    """A missing, binary or endless file is refused by its path."""
    assert message_of(tmp_path / "none.toml") == "No such file or directory"
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b"\xff\xfe")
    assert message_of(binary).startswith("not TOML")
    endless = tmp_path / "endless.toml"
    endless.write_bytes(b"#" * (MAX_CONFIG_BYTES + 1))
    assert message_of(endless) == f"longer than {MAX_CONFIG_BYTES} bytes"
