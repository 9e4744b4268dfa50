"""The codes of a ranker's run: fitted once, then read from the run's working folder."""

from pathlib import Path

import pyarrow as pa

from notellm.artifacts.write import write_folder
from notellm.files import read_parquet, write_parquet
from notellm.options import values_of
from notellm.rank.batch import RowCodes, impression_codes
from notellm.rank.codes.codes import Codes
from notellm.rank.codes.fit import fit_codes, fit_out_of_fold
from notellm.rank.codes.options import CodeChoice, CodeOptions
from notellm.rank.codes.text import binary_text, parse_binary
from notellm.rank.config import RankOptions


def codes_of_run(
    folder: Path, train: pa.Table, valid: pa.Table, options: RankOptions, *, progress: bool
) -> tuple[Codes, RowCodes]:
    """Return the codes, and the codes of the training rows; fit and save them if the folder does not exist.

    Args:
        folder: folder of the fitted codes.
        train: training impressions.
        valid: validation impressions, which choose the best epoch of the collaborative model.
        options: resolved options of the run.
        progress: show a progress bar.
    """
    if not folder.is_dir():
        _fit(folder, train, valid, options, progress=progress)
    # Newly fitted codes are read back as well, so that a resumed run continues with the same values.
    rows = read_parquet(folder / "rows.parquet", ["user", "item", "present"])
    users, items = (parse_binary(rows[name].to_pylist()) for name in ("user", "item"))
    return Codes.from_pretrained(folder / "codes"), RowCodes(users, items, rows["present"].to_numpy())


def _fit(folder: Path, train: pa.Table, valid: pa.Table, options: RankOptions, *, progress: bool) -> None:
    """Fit the codes and write them to a folder, whole or not at all."""
    code_options = CodeOptions(**values_of(options, CodeChoice)).with_training(
        epochs=options.code_epochs, seed=options.seed, progress=progress
    )
    if options.out_of_fold:
        fitted = fit_out_of_fold(train, valid, code_options, options.out_of_fold)
        codes, rows = fitted.codes, RowCodes.out_of_fold(fitted)
    else:
        codes = fit_codes(train, valid, code_options)
        rows = impression_codes(train, codes)
    table = pa.table(
        {"user": binary_text(rows.users), "item": binary_text(rows.items), "present": rows.present}
    )
    with write_folder(folder, "fitted codes") as aside:
        codes.save_pretrained(aside / "codes")
        write_parquet(table, aside / "rows.parquet")
