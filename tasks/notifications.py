"""A mail goes out at least once, under one Message-ID; a text to any other service at most once."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy.ext.asyncio import AsyncSession

from commerce.notifications.channels import (
    ChannelAnswer,
    Channels,
    Delivered,
    NotAddressed,
    Undelivered,
)
from commerce.notifications.mailer import MailAnswer, Mailer, NotSent, Rejected, Sent
from commerce.notifications.messages import UnusableMessageError, compose, mailbox, render
from goodsyard.job import Job
from goodsyard.outcomes import UNCERTAIN, Dead, Done, Outcome, Refused, Retry
from tasks.contracts import SendChat, SendEmail


class Email:
    """Sends mails."""

    contract = SendEmail

    def __init__(self, mailer: Mailer) -> None:
        """Send through ``mailer``."""
        self._mailer = mailer

    async def call(self, job: Job[SendEmail]) -> MailAnswer:
        """Compose the mail and hand it over; the job's id makes its Message-ID."""
        mail = job.payload
        try:
            to = mailbox(mail.to)
            if mail.template is not None:
                subject, text, html = render(mail.template, mail.data)
            else:
                subject, text, html = mail.message_subject or "", mail.body or "", None
            composed = compose(
                message_id=f"<{job.id}@{self._mailer.domain}>",
                sender=self._mailer.sender,
                to=to,
                subject=subject,
                text=text,
                html=html,
            )
        except UnusableMessageError as error:
            return Rejected(str(error))
        return await self._mailer.send(to, composed)

    async def settle(
        self,
        tx: AsyncSession,  # noqa: ARG002 - nothing of ours changes but the job
        answered: Sequence[tuple[Job[SendEmail], MailAnswer]],
    ) -> Sequence[Outcome]:
        """A mail leaves no trace but its job."""
        return [_outcome(answer) for _, answer in answered]


class Chat:
    """Sends texts to the channels that an operator named."""

    contract = SendChat

    def __init__(self, channels: Channels) -> None:
        """Send through ``channels``."""
        self._channels = channels

    async def call(self, job: Job[SendChat]) -> ChannelAnswer:
        """Hand the text over."""
        text = job.payload
        return await self._channels.send(text.channel, text.to, text.message_subject, text.body)

    async def settle(
        self,
        tx: AsyncSession,  # noqa: ARG002 - as of mails
        answered: Sequence[tuple[Job[SendChat], ChannelAnswer]],
    ) -> Sequence[Outcome]:
        """A text leaves no trace but its job; one that may have been delivered is for a person."""
        return [_chat_outcome(answer) for _, answer in answered]


def _chat_outcome(answer: ChannelAnswer) -> Outcome:
    match answer:
        case Delivered():
            return Done()
        case NotAddressed(detail):
            return Refused(detail)
        case Undelivered(detail):
            return Dead(UNCERTAIN, detail)


def _outcome(answer: MailAnswer) -> Outcome:
    match answer:
        case Sent():
            return Done()
        case Rejected(detail):
            return Refused(detail)
        case NotSent(error):
            return Retry(error)
