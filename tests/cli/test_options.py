"""Command-line options are the fields of an options dataclass, with their help and defaults."""

from dataclasses import dataclass
from typing import Literal

import pytest
import typer
from typer.testing import CliRunner

from notellm.cli.options import with_options
from notellm.options import option


@dataclass
class Base:
    """Shared.

    Attributes:
        seed: seed of the draw.
    """

    seed: int = option(0, least=0)


@dataclass
class Sample(Base):
    """A sample.

    Attributes:
        batch_size: rows in a batch.
        lora: adapters only.
        kind: which kind.
        quick: do it quickly.
        count: how many.
    """

    batch_size: int | None = option(None, least=1)
    lora: bool | None = option(None, flag="--lora/--full")
    kind: Literal["a", "b"] = option("a")
    quick: bool = option(False)
    count: int = option(3, least=1, flag="-k")
    derived: int = 7


@pytest.fixture
def run():
    app = typer.Typer()
    received = []

    @app.command()
    @with_options(Sample)
    def command(folder: str, options: Sample, force: bool = False) -> None:
        """Do something."""
        received.append((folder, options, force))

    def called(*arguments):
        received.clear()
        result = CliRunner().invoke(app, list(arguments))
        return result, received[0] if received else None

    return called


def test_defaults_are_those_of_the_dataclass(run):
    _, received = run("here")
    assert received == ("here", Sample(), False)


def test_every_field_has_its_option(run):
    _, received = run(
        "here", "--batch-size", "5", "--full", "--kind", "b", "--quick", "--seed", "3", "--force", "-k", "9"
    )
    wanted = Sample(seed=3, batch_size=5, lora=False, kind="b", quick=True, count=9)
    assert received == ("here", wanted, True)
    assert type(received[1].kind) is str


def test_a_wrong_choice_is_told_with_the_allowed_ones(run):
    result, received = run("here", "--kind", "c")
    assert result.exit_code == 2
    assert received is None
    assert "'a', 'b'" in result.output


def test_help_says_what_the_docstring_says(run):
    text = " ".join(run("--help")[0].output.split())
    for part in ("Rows in a batch.", "Adapters only.", "Which kind.", "Seed of the draw.", "Do something."):
        assert part in text
    assert "derived" not in text
