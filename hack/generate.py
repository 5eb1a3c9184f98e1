"""Write what is derived from the sources: the chart's CRD copies and the reference tables in docs/.

`make verify` runs this and fails on a difference, so that a table can never tell another story than the code.
"""

import shutil
from pathlib import Path

from manifestry import settings
from manifestry.core import errors
from manifestry.core.access import permissions

ROOT = Path(__file__).resolve().parent.parent
NOTE = "<!-- written by hack/generate.py; edit the source named below -->\n"


def copy_crds() -> None:
    """Copy crds/*.yaml into the chart, and drop copies whose source is gone."""
    target = ROOT / "charts/manifestry/files/crds"
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    for source in sorted((ROOT / "crds").glob("*.yaml")):
        shutil.copyfile(source, target / source.name)


def errors_page() -> str:
    """Return docs/errors.md: one row per code of `manifestry.core.errors`."""
    rows = "".join(
        f"| `{kind.code}` | {kind.status} | {kind.title} | {'yes' if kind.retryable else 'no'} |\n"
        for kind in sorted(errors.TABLE, key=lambda kind: (kind.status, kind.code))
    )
    return (
        f"# Errors\n\n{NOTE}\nSource: `manifestry.core.errors`. Every error is "
        "`application/problem+json` (RFC 9457) with `type`, `title`, `status`, `detail`, `instance`, "
        "and our members `code`, `auditId`, `traceId`, and `errors[]` (`pointer`, `message`) or `usage`.\n\n"
        f"| code | status | meaning | worth repeating |\n|---|---|---|---|\n{rows}"
    )


def settings_page() -> str:
    """Return docs/settings.md: every environment variable of both components."""
    text = f"# Settings\n\n{NOTE}\nSource: `manifestry.settings`. The chart sets these from its values.\n"
    for section in (
        settings.ClusterSettings,
        settings.StoreSettings,
        settings.OperatorSettings,
        settings.ApiSettings,
    ):
        summary = (section.__doc__ or "").strip().splitlines()[0]
        title = section.__name__.removesuffix("Settings")
        text += f"\n## {title}\n\n{summary}\n\n| variable | default |\n|---|---|\n"
        for name, field in section.model_fields.items():
            shown = "" if field.default in ("", None) else f"`{field.default}`"
            text += f"| `{settings.PREFIX}{name.upper()}` | {shown} |\n"
    return text


def access_page() -> str:
    """Return docs/access.md: which role may do what."""
    roles = [role.value for role in permissions.Role]
    head = f"| action | {' | '.join(roles)} |\n|---|{'---|' * len(roles)}\n"
    rows = "".join(
        f"| `{action.value}` | "
        + " | ".join("yes" if role in permissions.TABLE[action] else "" for role in permissions.Role)
        + " |\n"
        for action in permissions.Action
    )
    source = "Source: `manifestry.core.access.permissions`, the one table that the facade asks."
    return f"# Access\n\n{NOTE}\n{source}\n\n{head}{rows}"


def main() -> None:
    """Write every derived file."""
    copy_crds()
    for name, page in {"errors": errors_page(), "settings": settings_page(), "access": access_page()}.items():
        (ROOT / "docs" / f"{name}.md").write_text(page)


if __name__ == "__main__":
    main()
