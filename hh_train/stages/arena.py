"""`hh-train arena`: a local web page for blind votes between checkpoints, and what the votes say."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from hh_train.arena.booth import VOTES_FILE, Booth, read_votes
from hh_train.arena.contest import Program
from hh_train.arena.rating import FEW_PROMPTS, TieRule
from hh_train.arena.results import Results, summarize, write_results
from hh_train.arena.server import ArenaServer, is_loopback
from hh_train.arena.stimuli import StimulusMaker
from hh_train.arena.trials import Pairing

_NUM_REASONS = 10


def run(
    *,
    systems: dict[str, str],
    reference: str | None,
    output: str,
    host: str = "127.0.0.1",
    port: int = 8123,
    max_prompts: int | None = None,
    trials_per_rater: int | None = None,
    catch_every: int | None = 8,
    tie_rule: TieRule = "half",
    leave_out: list[str] | None = None,
    report: bool = False,
    seed: int = 0,
) -> Path:
    """Serves the page until it is interrupted (Ctrl-C), then prints what the votes say; returns `output`.

    Votes are in `output/votes.jsonl`, each on the disk before its rater sees the next pair. With them are written
    `ratings.json` and, for other tools, `votes.csv`. A second run goes on where the first ended.

    Args:
        systems: two or more folders of generated clips by name. Clips of one key are compared where prompt and seed are
            the same.
        reference: folder of the real clips, for the catch trials with late sound; null takes those from the systems.
        output: folder of the votes and of the clips as they are shown.
        host: the address to listen on. All but a loopback address let others reach the page, without a password.
        port: 0 takes any that is free.
        max_prompts: at most so many, in a fixed mixed order; null takes all.
        trials_per_rater: after which a rater is done; null shows every pair on every prompt.
        catch_every: one trial of so many is a catch trial; null leaves them out.
        tie_rule: `half`, as public arenas have it, or `davidson`: see `hh_train.arena.rating`.
        leave_out: raters whose votes do not count.
        report: prints what the votes say, and opens no page.
        seed: of pairs, sides and bootstrap.

    Raises:
        ValueError: no prompt that two systems share, an address that cannot be had, votes on other clips of the same
            name, or, with `report`, no votes.
    """
    folder = Path(output)
    console = Console()
    excluded = leave_out or []
    if report:
        if not (folder / VOTES_FILE).is_file():
            raise ValueError(f"there are no votes in {folder}; open the arena (without report=true) and vote")
        _report(folder, console, tie_rule, excluded, seed)
        return folder
    program = _prepare(folder, systems, reference, max_prompts, console)
    pairing = Pairing(contests=program.contests, catch_every=catch_every, trials_per_rater=trials_per_rater, seed=seed)
    booth = Booth(program=program, pairing=pairing, folder=folder)
    try:
        server = ArenaServer(booth, host=host, port=port)
        _invite(console, program, booth, server.url, is_open=not is_loopback(host))
        server.serve()
    finally:
        booth.close()
    console.print()
    if any(vote.trial.kind == "comparison" for vote in read_votes(folder)[0]):
        _report(folder, console, tie_rule, excluded, seed)
    else:
        console.print("no votes")
    return folder


def _prepare(
    folder: Path, systems: dict[str, str], reference: str | None, max_prompts: int | None, console: Console
) -> Program:
    with Progress(console=console, transient=True) as progress:
        bar = progress.add_task("making the clips alike", total=None)
        program = StimulusMaker(folder=folder / "clips").make(
            systems,
            reference=reference,
            max_prompts=max_prompts,
            report=lambda done, total: progress.update(bar, completed=done, total=total),
        )
    for what, reason in list(program.left_out.items())[:_NUM_REASONS]:
        console.print(f"  left out {what}: {reason}", markup=False, soft_wrap=True)
    if len(program.left_out) > _NUM_REASONS:
        console.print(f"  and {len(program.left_out) - _NUM_REASONS} more")
    if not program.contests:
        raise ValueError(f"no prompt is left to vote on: {next(iter(program.left_out.items()), 'there is none')}")
    return program


def _invite(console: Console, program: Program, booth: Booth, url: str, *, is_open: bool) -> None:
    console.print(
        f"prompts: {len(program.contests)}; systems: {', '.join(program.systems)}; votes so far: {booth.num_votes}",
        markup=False,
        soft_wrap=True,
    )
    if booth.num_damaged:
        console.print(f"{booth.num_damaged} lines of the votes cannot be read and are passed over")
    if is_open:
        console.print("whoever reaches this machine can open the page, without a password")
    console.print(f"open {url} in a browser; Ctrl-C ends it and prints what the votes say", soft_wrap=True)


def _report(folder: Path, console: Console, tie_rule: TieRule, leave_out: list[str], seed: int) -> None:
    votes, num_damaged = read_votes(folder)
    results = summarize(votes, tie_rule=tie_rule, left_out=leave_out, num_damaged=num_damaged, seed=seed)
    write_results(folder, results, votes)
    for question in results.rankings:
        console.print(_ranking_table(results, question))
    for gap in results.rankings["overall"].gaps:
        interval = "" if gap.low is None else f" ({gap.low:+.0f} to {gap.high:+.0f})"
        console.print(f"{gap.first} over {gap.second}: {gap.points:+.0f} points{interval}: {gap.in_words}")
    console.print(_reliability_table(results))
    ranking = results.rankings["overall"]
    console.print(
        f"votes: {results.num_votes}; prompts: {ranking.num_prompts}; raters: {ranking.num_raters}; tie rule: "
        f"{tie_rule} (both bad is a tie); catch trials, which do not count: {results.num_catches}",
        soft_wrap=True,
    )
    if ranking.num_raters == 1:
        console.print("with one rater the intervals speak for that rater alone")
    if ranking.num_prompts < FEW_PROMPTS:
        console.print(f"with fewer than {FEW_PROMPTS} prompts the intervals are too narrow to speak for others")
    if num_damaged:
        console.print(f"{num_damaged} lines of the votes cannot be read and are passed over")
    console.print(f"written: {folder / 'ratings.json'}, {folder / 'votes.csv'}", markup=False, soft_wrap=True)


def _ranking_table(results: Results, question: str) -> Table:
    table = Table(title=f"Rating, {question} (mean 1000; 400 points are odds of 10 to 1)", title_justify="left")
    for column in ("system", "rating", "95 % interval", "votes", "won", "tied", "lost"):
        table.add_column(column, justify="left" if column == "system" else "right")
    for rating in results.rankings[question].ratings:
        interval = "–" if rating.low is None else f"{rating.low:.0f} to {rating.high:.0f}"
        lost = rating.num_votes - rating.num_wins - rating.num_ties
        counts = (rating.num_votes, rating.num_wins, rating.num_ties, lost)
        table.add_row(rating.system, f"{rating.points:.0f}", interval, *map(str, counts))
    return table


def _reliability_table(results: Results) -> Table:
    table = Table(title="Raters in the catch trials (went well / shown)", title_justify="left")
    for column in ("rater", "votes", "left share", "same clip twice", "late sound", "repeated pair"):
        table.add_column(column, justify="left" if column == "rater" else "right")
    for row in results.reliability:
        name = f"{row.rater} (left out)" if row.rater in results.left_out else row.rater
        share = "–" if row.left_share is None else f"{row.left_share:.0%}"
        caught = (f"{well}/{shown}" for well, shown in (row.identical, row.late, row.repeat))
        table.add_row(name, str(row.num_votes), share, *caught)
    return table
