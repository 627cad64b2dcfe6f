"""The jobs of a run: made from a seed, most of them good, some that must fail."""

import random
from typing import Final

from protocol.errors import ErrorCode
from tests.chaos.history import Sent

_FORMS: Final[tuple[dict[str, str], ...]] = (
    {},
    {},
    {"format": "der"},
    {"digest": "keccak256", "format": "recoverable"},
    {"digest": "eip191", "format": "recoverable"},
    {"scheme": "schnorr"},
)
_NEW_USER_SHARE: Final = 0.04
_GENERATE_SHARE: Final = 0.06
_BAD_SHARE: Final = 0.03


class JobSource:
    """Makes jobs, one after the other. `users` are those that have a key."""

    def __init__(self, seed: int) -> None:
        self.users: list[str] = []
        self._dice = random.Random(f"{seed}/jobs")
        self._made = 0
        self._new_users = 0

    def next(self) -> list[Sent]:
        """Return one job, or two rival ones that both want the same new key."""
        number = self._dice.random()
        if not self.users or number < _NEW_USER_SHARE:
            self._new_users += 1
            userid = f"user-{self._new_users}"
            return [self._generate(userid) for _ in range(self._dice.choice((1, 1, 2)))]
        userid = self._dice.choice(self.users)
        if number < _GENERATE_SHARE:
            return [self._generate(userid)]
        if number < _GENERATE_SHARE + _BAD_SHARE:
            return [self._bad(userid)]
        return [self._sign(userid, self._dice.choice(_FORMS))]

    def _id(self, kind: str) -> str:
        self._made += 1
        return f"{kind}-{self._made}"

    def _generate(self, userid: str) -> Sent:
        return Sent({"type": "generate", "job_id": self._id("g"), "userid": userid}, None)

    def _sign(self, userid: str, form: dict[str, str]) -> Sent:
        job_id = self._id("s")
        message = f"message of {job_id} {self._dice.random()}"
        return Sent({"type": "sign", "job_id": job_id, "userid": userid, "message": message, **form}, None)

    def _bad(self, userid: str) -> Sent:
        good = self._sign(userid, {}).body
        return self._dice.choice(
            (
                Sent({**good, "userid": f"nobody-{self._made}"}, ErrorCode.UNKNOWN_USER),
                Sent({**good, "extra": "field"}, ErrorCode.BAD_REQUEST),
                Sent({**good, "scheme": "schnorr", "format": "der"}, ErrorCode.BAD_REQUEST),
            )
        )
