"""Dramatiq with dramatiq-sqs; the actor answers with boto3."""

import boto3
import dramatiq
from dramatiq_sqs import SQSBroker

from benchmarks.peers.work import CLIENT, answer, fill_as_asked, reply_url

dramatiq.set_broker(SQSBroker(namespace="dramatiq", **CLIENT))
sqs = boto3.client("sqs", **CLIENT)


@dramatiq.actor(queue_name="jobs")
def job(kind: str, number: int) -> None:
    """Do one job and reply."""
    sqs.send_message(QueueUrl=reply_url("dramatiq"), MessageBody=answer(kind, number))


if __name__ == "__main__":
    fill_as_asked(job.send)
