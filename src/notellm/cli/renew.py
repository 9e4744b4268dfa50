"""The command that renews the models of a store: renew."""

from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from notellm.cli.common import Quiet, connected, examples, group, hide_loading_bars, show, trusts_code
from notellm.cli.options import with_options
from notellm.errors import ConfigError
from notellm.renew.options import RenewOptions

commands = group()


@commands.command(
    epilog=examples(
        "notellm renew store --model model --ranker ranker --url http://127.0.0.1:8000",
        "notellm renew store --model model                       (a store that is not served now)",
        "notellm renew store --model model --candidate other-model",
        "notellm renew store --model model --ranker ranker --url http://127.0.0.1:8000 --back",
    )
)
@with_options(RenewOptions)
def renew(
    store: Annotated[str, typer.Argument(help="The store, whose log is trained on.")],
    model: Annotated[Path, typer.Option(help="The directory of the model that serves.")],
    ranker: Annotated[Path | None, typer.Option(help="The directory of the ranker that serves.")] = None,
    url: Annotated[
        str | None,
        typer.Option(help="Address of the running service, which switches; its key is in NOTELLM_KEY."),
    ] = None,
    candidate: Annotated[
        Path | None, typer.Option(help="Compare this model directory instead of training one.")
    ] = None,
    candidate_ranker: Annotated[Path | None, typer.Option(help="The ranker of --candidate.")] = None,
    back: Annotated[bool, typer.Option("--back", help="Let the former models serve again.")] = False,
    work: Annotated[
        Path | None, typer.Option(help="Working folder; default: MODEL.renewal, beside the model.")
    ] = None,
    *,
    options: RenewOptions,  # with_options puts the fields in this place
    quiet: Quiet = False,
) -> None:
    """Train on the log of a store, and let the new models serve if they are not worse.

    Both models are compared on the newest days, which neither has seen. The new ones take the place of the
    old, which are kept as MODEL.former. A killed renewal goes on when the command is given again.
    """
    from notellm.engine.renewals import ENDING
    from notellm.renew.models import Models
    from notellm.renew.run import Renewal
    from notellm.renew.service import Service

    if candidate is None and candidate_ranker is not None:
        raise ConfigError("--candidate-ranker is the ranker of --candidate; give both")
    hide_loading_bars()
    serving = Models(model.resolve(), None if ranker is None else ranker.resolve())
    with nullcontext() if url is None else connected(url) as client:
        renewal = Renewal(
            store,
            serving,
            work or serving.beside(ENDING).model,
            service=None if client is None else Service(client, str(url)),
            trust_remote_code=trusts_code(),
            progress=not quiet,
            say=show,
        )
        if back:
            renewal.back()
            show("the former models serve again; the ones before are the former ones now")
            return
        given = None if candidate is None else Models(candidate, candidate_ranker)
        renewed = renewal.renew(options, candidate=given)
    decision = renewed.decision
    if decision.figures:
        show(decision.table().text())
    show("the new models serve" if decision.takes_over else "the serving models stay")
    for reason in decision.reasons:
        show(f"  {reason}")
    show(f"decision -> {renewed.file}")
