"""What ends a command: one message that says what, where, why and what to do.

This is the one place that knows how boto3 and AWS say that credentials, clock, region, network or rights are wrong.
Each row was met by others; the reports are named beside it.
"""

from __future__ import annotations

from datetime import UTC, datetime

from botocore import exceptions as boto


class LaunchError(Exception):
    """Stopped; ``exit_status`` is 2 if the user must fix something first, 1 if the same command may work later."""

    def __init__(self, message: str, exit_status: int = 2) -> None:
        super().__init__(message)
        self.exit_status = exit_status


class Away(LaunchError):
    """AWS has no capacity, took the machine back or did not answer in time: the same command goes on later."""

    def __init__(self, message: str) -> None:
        super().__init__(message, exit_status=1)


class NoCredentials(LaunchError):
    """boto3 found none at all."""


_SIGN_IN = (
    "boto3 takes them from `aws configure sso` (then `aws sso login`, and AWS_PROFILE for a profile with a name), from"
    " ~/.aws/credentials (`aws configure`), or from AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY."
)
_AGAIN = "Run `aws sso login`, or renew AWS_SESSION_TOKEN with its two keys; then run the same command again."
_CLOCK = "The clock of this computer says {now} UTC; AWS bears five minutes of error (`timedatectl set-ntp true`)."
_BOTO: tuple[tuple[tuple[type[Exception], ...], str], ...] = (
    ((boto.NoCredentialsError,), "There are no AWS credentials. " + _SIGN_IN),  # boto/boto3#2412
    ((boto.PartialCredentialsError,), "Half of the AWS credentials is missing. " + _SIGN_IN),  # boto/boto3#2588
    (  # aws/aws-cli#4879
        (boto.ProfileNotFound, boto.ConfigParseError, boto.ConfigNotFound, boto.InvalidConfigError),
        "Look at AWS_PROFILE and ~/.aws/config (`aws configure list-profiles`).",
    ),
    (  # boto/boto3#4119
        (boto.UnauthorizedSSOTokenError, boto.SSOTokenLoadError, boto.TokenRetrievalError, boto.SSOError,
         boto.LoginTokenLoadError),
        "The sign-in to AWS has expired, or was never made. " + _AGAIN,
    ),
    ((boto.CredentialRetrievalError,), "The AWS credentials could not be fetched. " + _SIGN_IN),
    (  # boto/boto3#2357
        (boto.SSLError,),
        "The certificate is not trusted: if a proxy looks into connections, give its certificate by AWS_CA_BUNDLE.",
    ),
    ((boto.ProxyConnectionError, boto.InvalidProxiesConfigError), "Look at HTTPS_PROXY and NO_PROXY."),
    ((boto.ParamValidationError,), "boto3 does not send that. A setting has a value that AWS does not take."),
    ((boto.UnknownServiceError, boto.DataNotFoundError), "This boto3 is too old. Run `make setup`."),
)  # fmt: skip
_CODES: tuple[tuple[tuple[str, ...], str], ...] = (
    (("ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired"), "The AWS credentials have expired. " + _AGAIN),
    (("RequestExpired",), "The credentials have expired, or the clock is wrong. " + _CLOCK + " " + _AGAIN),
    (  # boto/boto3#1252, aws/aws-sdk-js#2565, awslabs/aws-sdk-rust#1033
        ("RequestTimeTooSkewed", "RequestInTheFuture", "SignatureDoesNotMatch", "InvalidSignatureException",
         "InvalidSignature"),
        _CLOCK + " If it is right, AWS_SECRET_ACCESS_KEY was copied wrongly. " + _SIGN_IN,
    ),
    (  # turbot/steampipe-plugin-aws#75, boto/boto3#3533
        ("AuthFailure", "InvalidClientTokenId", "UnrecognizedClientException", "InvalidAccessKeyId", "InvalidToken",
         "MissingAuthenticationToken"),
        "AWS does not know these credentials, or the account has not switched on `region` (`aws account enable-region"
        " --region-name NAME`). `aws sts get-caller-identity` says whose they are. " + _SIGN_IN,
    ),
    (
        ("OptInRequired", "PendingVerification", "SubscriptionRequiredException", "Blocked"),
        "The account may not do this yet: AWS is verifying it, or wants it to sign up. See the account's mail.",
    ),
)  # fmt: skip
_ADVICE: tuple[tuple[tuple[str, ...], str], ...] = (  # refusals that a caller may know what to do about
    (
        ("UnauthorizedOperation", "AccessDenied", "AccessDeniedException"),
        "The policies that are needed: python -m launch plan --policy daily (and owner).",
    ),
    (
        ("VcpuLimitExceeded", "InstanceLimitExceeded", "VolumeLimitExceeded", "MaxConfigLimitExceededException"),
        "Ask for more in Service Quotas: for machines, \"Running On-Demand G and VT instances\", four vCPUs each.",
    ),
)  # fmt: skip


def explained(error: Exception, what: str) -> LaunchError | None:
    """What to do about an error of boto3 or AWS at ``what``; None for an answer that the caller must judge."""
    if isinstance(error, boto.ClientError):
        advice = _of_code(error, _CODES)
        return LaunchError(f"AWS refused {what}: {error} {_filled(advice)}") if advice else None
    advice = next((text for kinds, text in _BOTO if isinstance(error, kinds)), "")
    if advice:
        kind = NoCredentials if isinstance(error, boto.NoCredentialsError) else LaunchError
        return kind(f"{what}: {error}. {_filled(advice)}")
    if isinstance(error, ValueError):  # cloud-custodian/cloud-custodian#8220
        return LaunchError(f"{what}: {error}. Look at `region`, AWS_ENDPOINT_URL and ~/.aws/config.")
    return Away(f"AWS did not answer {what}: {error}. Check the network, and that `region` exists; run it again.")


def refused(error: boto.ClientError) -> str:
    """The message about a refusal that no caller knew what to do about."""
    advice = _of_code(error, _ADVICE) or "Fix that, then run the same command again: it goes on."
    return f"AWS refused {error.operation_name}: {error} {advice}"


def _of_code(error: boto.ClientError, table: tuple[tuple[tuple[str, ...], str], ...]) -> str:
    code = error.response.get("Error", {}).get("Code", "")
    return next((text for codes, text in table if code in codes), "")


def _filled(advice: str) -> str:
    return advice.replace("{now}", f"{datetime.now(UTC):%Y-%m-%d %H:%M}")
