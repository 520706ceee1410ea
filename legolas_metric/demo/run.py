"""The main job on the bundled data: train, rank unseen characters, and show what happened."""

import platform
from importlib.metadata import version
from pathlib import Path

import torch
from rich.console import Console

from legolas_metric.datasets import Omniglot, split_omniglot
from legolas_metric.demo.recipe import OURS, Comparison, Outcome, compare_on_omniglot
from legolas_metric.files import write_json
from legolas_metric.measures import AUC, MAP_R, RANK_1, measure
from legolas_metric.outputs import check_file, check_writable
from legolas_metric.report import Card, Gallery, Section, bars, curves, similarity_histogram, spectra, write_page
from legolas_metric.tables import Better, Table

_FIGURES_SHOWN = ("rank_at_1", "map_at_r", "auc", "effective_rank", "mean_cosine", "top1_variance")
_SHOWN_PAIRS = 12


def run_demo(
    out: Path,
    *,
    epochs: int = 6,
    seed: int = 0,
    threads: int | None = None,
    data: tuple[Omniglot, Omniglot] | None = None,
    console: Console | None = None,
) -> Comparison:
    """Train both encoders, print the table, and write `report.html` and `summary.json` into a folder.

    Args:
        out: the folder; refused before training starts where it can't be written.
        epochs: of 115 steps of at most 128 drawings each, for each of the two trained encoders.
        seed: of the split, the weights and the batches.
        threads: of the processor (default: as torch has them).
        data: train and validation set (default: the 24 and 6 alphabets of `split_omniglot`).
        console: where to print (default: the terminal).

    Raises:
        ValueError: fewer than 2 epochs, the first of which warms up.
        OSError: the folder cannot be written.
    """
    check_writable(out)
    page, figures = out / "report.html", out / "summary.json"
    for file in (page, figures):
        check_file(file)
    if threads is not None:
        torch.set_num_threads(threads)
    screen = console or Console()
    train, validation = data or split_omniglot(seed=seed)
    screen.print(
        f"Omniglot: {_alphabets(train)} alphabets to train, {_alphabets(validation)} unseen ones to judge. "
        f"Two runs of {epochs} epochs, seed {seed}, {torch.get_num_threads()} threads."
    )
    result = compare_on_omniglot(train, validation, epochs=epochs, seed=seed)
    table = figures_table(result)
    screen.print(table.screen(screen.width))
    screen.print(_verdict(result))
    screen.print(_race_line(result))
    write_json(figures, summary(result))
    write_page(page, "Global mining on handwriting", _lead(result), report_sections(result, table))
    screen.print(f"Took {result.seconds:.0f} s. Wrote {page}.", markup=False, soft_wrap=True)
    return result


def summary(result: Comparison) -> dict[str, object]:
    """The table's figures, as they are written to `summary.json`."""
    return {
        **{key: _figures(outcome) for key, outcome in _outcomes(result).items()},
        "engines": {
            "rows": result.race.rows,
            "faiss_flat_seconds": result.race.faiss.stats.seconds,
            "exact_seconds": result.race.exact.stats.seconds,
            "agreement": result.race.agreement,
        },
        "steps": result.steps,
        "seconds": result.seconds,
        "seed": result.seed,
        "threads": torch.get_num_threads(),
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("legolas-metric", "torch", "faiss-cpu", "lightning", "numpy")},
        },
    }


def figures_table(result: Comparison) -> Table:
    """Untrained, batch-only and ours, side by side; "mining" is seconds of embedding the bank and looking at it."""
    columns = [measure(name) for name in (*_FIGURES_SHOWN, "mining_seconds")]
    titles = [column.short or column.title for column in columns]
    rows = []
    for name, outcome in zip(("untrained", "batch-only", "ours"), _outcomes(result).values()):
        mining = outcome.mining_seconds if outcome.rounds else None
        rows.append([name, *_figures(outcome).values(), mining])
    better: dict[str, Better] = {
        title: column.better for title, column in zip(titles, columns) if column.better is not None
    }
    formats = dict.fromkeys((titles[3], titles[6]), ".1f")
    return Table(["encoder", *titles], rows, better=better, formats=formats)


def report_sections(result: Comparison, table: Table) -> list[Section]:
    """The parts of the HTML report, from the records of the two runs."""
    trained = {"batch-only": result.batch_only, "ours": result.mined}
    everyone = {"untrained": result.untrained, **trained}
    pairs = result.mined.verification
    baseline = result.mined.collapse.baseline
    assert baseline is not None
    return [
        Section("The figures", _FIGURES, table),
        *(
            Section(title, text, curves({name: curve(run) for name, run in trained.items()}, y=title))
            for key, text, curve in _CURVES
            for title in [_heading(key)]
        ),
        Section(
            "Singular spectrum",
            _SPECTRUM,
            spectra({name: run.collapse.spectrum for name, run in everyone.items()}, baseline=baseline.spectrum),
        ),
        Section(
            "Similarity of pairs",
            _HISTOGRAM,
            similarity_histogram(pairs.edges, pairs.genuine_histogram, pairs.impostor_histogram),
        ),
        Section("Mining, round by round", _ROUNDS, rounds_table(result.mined)),
        Section("Nearest classes", _NEAREST, nearest_gallery(result)),
        Section(
            "Mining engines",
            _race_line(result),
            bars(
                {"FAISS Flat": result.race.faiss.stats.seconds, "exact": result.race.exact.stats.seconds}, x="seconds"
            ),
        ),
        Section("Hardest mined pairs", _HARDEST, hardest_gallery(result)),
    ]


def rounds_table(outcome: Outcome) -> Table:
    """What each look at the whole training set told of its classes."""
    columns = ["epoch", "batches of", "nearest class", "confused", "drift", "embedding (s)", "planning (s)"]
    rows = [
        [
            str(r.epoch),
            "random classes" if r.epoch < OURS.warm_up else "near classes",
            look.nearest,
            look.confused,
            r.drift,
            r.encode_seconds,
            r.plan_seconds,
        ]
        for r, look in zip(outcome.rounds, outcome.looks, strict=True)
    ]
    return Table(columns, rows)


def nearest_gallery(result: Comparison) -> Gallery:
    """The pairs of characters whose means lie nearest to each other in the last bank."""
    train, cards = result.train, []
    for pair in result.near:
        names = [train.alphabet_names[int(train.alphabets[row])].replace("_", " ") for row in pair.rows]
        pictures = [(name, train.images[row]) for name, row in zip(names, pair.rows)]
        cards.append(Card(pictures, f"similarity of the means {pair.similarity:.2f}"))
    return Gallery(cards)


def hardest_gallery(result: Comparison, count: int = _SHOWN_PAIRS) -> Gallery:
    """The triplets of the last bank whose negative beats the positive by most, each anchor's class once."""
    train, triplets = result.train, result.race.exact
    order = (triplets.s_an - triplets.s_ap).argsort(descending=True)
    cards, seen = [], set()
    for t in order.tolist():
        a, p, n = (int(ids[t]) for ids in (triplets.anchor, triplets.positive, triplets.negative))
        if int(train.labels[a]) in seen:
            continue
        seen.add(int(train.labels[a]))
        pictures = [(role, train.images[row]) for role, row in (("anchor", a), ("positive", p), ("negative", n))]
        name = train.alphabet_names[int(train.alphabets[n])].replace("_", " ")
        text = f"s_ap {float(triplets.s_ap[t]):.2f}, s_an {float(triplets.s_an[t]):.2f}; negative from {name}"
        cards.append(Card(pictures, text))
        if len(cards) == count:
            break
    return Gallery(cards)


def _outcomes(result: Comparison) -> dict[str, Outcome]:
    return {"untrained": result.untrained, "batch_only": result.batch_only, "global": result.mined}


def _figures(outcome: Outcome) -> dict[str, float | None]:
    held = {**outcome.ranking.scalars(), **outcome.verification.scalars(), **outcome.collapse.scalars()}
    return {name: held[name] for name in _FIGURES_SHOWN}


def _alphabets(data: Omniglot) -> int:
    return len(data.alphabets.unique())


def _lead(result: Comparison) -> str:
    seen, unseen = len(result.train), len(result.validation)
    return (
        f"An encoder (conv4) was trained on {seen:,} drawings of {_alphabets(result.train)} alphabets and judged on "
        f"{unseen:,} drawings of {_alphabets(result.validation)} alphabets that it never saw. Both runs took "
        f"{result.steps:,} steps of at most 128 drawings, from the same weights (seed {result.seed}), each by a tuned "
        f"recipe of its side.\n\n{_verdict(result)}"
    )


def _verdict(result: Comparison) -> str:
    ours, batch = result.mined.ranking, result.batch_only.ranking
    gain = 100 * (ours.rank[1] - batch.rank[1])
    how = "beats" if gain > 0 else "does not beat"
    return (
        f"Looking at the whole set {how} tuned batch-only training here: "
        f"{RANK_1} {ours.rank[1]:.3f} against {batch.rank[1]:.3f} "
        f"({gain:+.1f} points), {MAP_R} {ours.map_at_r:.3f} against {batch.map_at_r:.3f}; untrained "
        f"{result.untrained.ranking.rank[1]:.3f}. It is one seed."
    )


def _race_line(result: Comparison) -> str:
    race = result.race
    faiss, exact = race.faiss.stats.seconds, race.exact.stats.seconds
    return (
        f"Full-hard mining of {race.rows:,} rows: FaissIndex('Flat') {faiss:.2f} s, ExactIndex() {exact:.2f} s "
        f"({exact and faiss / exact:.1f} times as fast); the same negative for {race.agreement:.2%} of the anchors."
    )


_FIGURES = (
    "Batch-only: random classes, and the hardest triplet of each anchor in the batch. Ours: classes that lie near each "
    "other in the whole training set, of each the drawings nearest to the others, and SupCon at a temperature of "
    f"{OURS.temperature}. {RANK_1}: share of the drawings whose nearest neighbour is "
    f"the same character. {MAP_R}: how well the first R neighbours are ranked, R being the other drawings of the "
    f"character. {AUC}: how often a random pair of one character lies closer than a random pair of two; it looks good "
    f"long before {RANK_1} does.\n\nEffective rank, mean cosine and the top-1 share of the variance tell of collapse: "
    "how many directions are in use, how alike all drawings look, how much one direction dominates."
)
_SPECTRUM = (
    "Strength of each direction of the embedding, strongest first. A line that falls off a cliff has collapsed into "
    "few directions; the grey line is what random directions would give at the same size."
)
_HISTOGRAM = (
    "Every pair of drawings of the unseen alphabets, after global mining. The less the two heaps overlap, the better; "
    f"what matters for {RANK_1} is the far right end of the negatives."
)
_ROUNDS = (
    "Each epoch embeds all training drawings anew, and draws its batches from classes that lie near each other in that "
    "bank; the first one warms up on random classes. Nearest class: cosine of a character's mean and the nearest other "
    "one's, averaged over the characters. Confused: share of the drawings nearer to another character's mean than to "
    "their own. Drift: mean cosine between a drawing's embedding and the one before."
)
_NEAREST = (
    "Pairs of characters that batches of near classes show together: those whose means lie nearest to each other in "
    "the last bank, each by the drawing that lies nearest to the other's mean. Of random batches of 32 of some 700 "
    "characters that hold one of them, one in 23 holds the other."
)
_HARDEST = (
    "Full-hard mining of the last bank: triplets whose negative, a different character, lies closer to the anchor than "
    "the positive, the anchor's own character, worst first. Where you can't tell them apart either, training on them "
    "is a waste."
)


def _heading(name: str) -> str:
    title = measure(name).title
    return title[0].upper() + title[1:]


_CURVES = (
    (
        "rank_at_1",
        "Per epoch, on the unseen alphabets; epoch 0 is the untrained encoder.",
        lambda run: [record.ranking.rank[1] for record in run.history],
    ),
    (
        "map_at_r",
        "Per epoch, on the unseen alphabets.",
        lambda run: [record.ranking.map_at_r for record in run.history],
    ),
    (
        "effective_rank",
        "Per epoch. A fall towards 1 is dimensional collapse.",
        lambda run: [record.collapse.effective_rank for record in run.history],
    ),
    (
        "mean_cosine",
        "Per epoch, over all pairs. A rise towards 1 means that everything looks alike.",
        lambda run: [record.collapse.mean_cosine for record in run.history],
    ),
)
