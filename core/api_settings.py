"""The settings of the API, its sign-on and notifications, and of Flower, described as in `ulak.core.setting_groups`."""

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, SecretStr

from ulak.core.addresses import issuer, mail_address, mail_addresses
from ulak.core.secret_strength import ADVICE, is_example
from ulak.core.setting_types import (
    GENERATED,
    GIVE_CERTIFICATES,
    GIVE_SECRET_FILE,
    AbsolutePath,
    Group,
    no_example,
    setting,
)


def _user_and_password(auth: SecretStr) -> SecretStr:
    user, _, password = auth.get_secret_value().partition(":")
    if not (user and password) or is_example(password):
        raise ValueError(auth)
    return auth


def _scopes(text: str) -> str:
    """Words of OAuth, RFC 6749 section 3.3; `openid` must be among them."""
    words = text.split()
    if "openid" not in words or not all(re.fullmatch(r"[!#-\[\]-~]+", word) for word in words):
        raise ValueError(text)
    return " ".join(words)


class Api(Group):
    """API and status page."""

    file = "api.env"
    api_token: Annotated[SecretStr, Field(min_length=8), AfterValidator(no_example)] | None = setting(
        f"Bearer token of `/v1`, at least 24 characters: `openssl rand -hex 24`. {GENERATED}"
        "\n\nShorter ones are reported in this version and refused in the next, and at once with a new `ULAK_HOME`.",
        remedy=f"{ADVICE}, or unset it to have one generated; the examples' values are refused",
        example="",
    )
    page_secret_file: AbsolutePath | None = setting(
        f"The key that signs sessions of the status page: one file for every API process. {GENERATED}"
        "\n\nWith different files a log-in is valid at one process only. At least 32 characters: "
        "`openssl rand -base64 32`.",
        remedy=GIVE_SECRET_FILE,
        example="/run/secrets/ulak_page_secret",
    )


class SignOn(Group):
    """Single sign-on.

    OpenID Connect; needs `ULAK_PUBLIC_URL` ([roles and single sign-on](../how-to/roles-and-single-sign-on.md)).
    """

    file = "api.env"
    oidc_issuer: Annotated[str, AfterValidator(issuer)] | None = setting(
        "The issuer, exactly as in the provider's `/.well-known/openid-configuration`. Unset: log-in with tokens only.",
        remedy="write the provider's issuer exactly as its /.well-known/openid-configuration says, https (http "
        "on this host only), or unset it to have no single sign-on",
        example="https://login.example.com/realms/company",
    )
    oidc_client_id: str | None = setting(
        "The id under which Ulak is registered there, with the redirect address `ULAK_PUBLIC_URL/login/sso/callback`.",
        remedy="give the id under which Ulak is registered at the provider of the sign-on",
        example="ulak",
    )
    oidc_client_secret: Annotated[SecretStr, AfterValidator(no_example)] | None = setting(
        "The client's secret. Unset: a public client (PKCE protects the code in both cases).",
        remedy="give the secret that the provider of the sign-on made, or unset it for a public client",
        example="",
    )
    oidc_roles: str | None = setting(
        "Roles by group, separated by semicolons: `GROUP=ROLE`, or `GROUP=ROLE@ACCOUNT,ACCOUNT` for some accounts.",
        remedy="write GROUP=ROLE or GROUP=ROLE@ACCOUNT,ACCOUNT, separated by semicolons; roles are read, "
        "support, operate, admin",
        example="ulak-admins=admin;on-call=operate;call-centre=support@marka-sms,marka-kampanya",
    )
    oidc_claim: Annotated[str, Field(min_length=1)] = setting(
        "The claim of the ID token that names the groups; `a.b`: `b` within `a`.",
        default="groups",
        remedy="give the name of the claim that holds the groups",
    )
    oidc_scopes: Annotated[str, AfterValidator(_scopes)] = setting(
        "The scopes that are requested.",
        default="openid profile email",
        remedy="write scopes separated by blanks, openid among them",
    )
    oidc_ca_file: AbsolutePath | None = setting(
        "Certificates that are trusted for the provider, in place of the public ones.",
        remedy=GIVE_CERTIFICATES,
        example="/etc/ssl/company-ca.pem",
    )


class Notifications(Group):
    """Notifications.

    See [notifications of problems](../how-to/notifications.md). Each file holds an address or a secret, so it is as
    private as this one, and readable for the API's user. With Compose they are in `deploy/notify/`, which is mounted at
    `/etc/ulak/notify`.
    """

    file = "api.env"
    notify_webhook_url_file: AbsolutePath | None = setting(
        "A webhook: the file with its address (https). Needs the secret, too.",
        remedy="give the path of a file with the webhook's address",
        example="/etc/ulak/notify/webhook_url",
    )
    notify_webhook_secret_file: AbsolutePath | None = setting(
        "The file with the secret that signs, such as `printf whsec_; openssl rand -base64 32` prints.",
        remedy="give the path of a file with the secret that signs the webhook's messages",
        example="/etc/ulak/notify/webhook_secret",
    )
    notify_slack_url_file: AbsolutePath | None = setting(
        "An incoming webhook of Slack, Mattermost or the like: the file with its address.",
        remedy="give the path of a file with the address of an incoming webhook of Slack, Mattermost or the like",
        example="/etc/ulak/notify/slack_url",
    )
    notify_smtp_url_file: AbsolutePath | None = setting(
        "Mail: the file with the server's address."
        "\n\n`smtps://user:password@host:465`, or `smtp://user:password@host:587` (STARTTLS).",
        remedy="give the path of a file with the mail server's address",
        example="/etc/ulak/notify/smtp_url",
    )
    notify_mail_from: Annotated[str, AfterValidator(mail_address)] | None = setting(
        "The sender of the mails.",
        remedy="write one bare address, such as ulak@example.com",
        example="ulak@example.com",
    )
    notify_mail_to: Annotated[str, AfterValidator(mail_addresses)] | None = setting(
        "The recipients of the mails, separated by commas.",
        remedy="write bare addresses separated by commas, such as on-call@example.com",
        example="on-call@example.com,ops@example.com",
    )
    notify_ca_file: AbsolutePath | None = setting(
        "Certificates that are trusted for these receivers, in place of the public ones.",
        remedy=GIVE_CERTIFICATES,
        example="/etc/ssl/company-ca.pem",
    )
    notify_language: Literal["en", "tr"] = setting(
        "The language of the messages, `en` or `tr`.", default="en", remedy="write en or tr"
    )


class Flower(Group):
    """Flower."""

    file = "flower.env"
    flower_auth: Annotated[SecretStr, AfterValidator(_user_and_password)] | None = setting(
        f"`user:password` of Flower, the password as long as the API's token. {GENERATED}",
        remedy="write it as user:password, the password no example, or unset it to have one generated",
        example="",
    )
