"""The page's "Result": which network to take, and all of them as points, rows and in detail."""

from html import escape

import gradio as gr

from gemkit.export.card import interval
from gemkit.records import Model, Network, TrialSummary

from .. import formatting
from ..hints import command
from .content import PageRun
from .offer import Offer
from .parts import Part, plain, scripted


def tab(shown: PageRun) -> tuple[gr.HTML, Part]:
    """The tab's layout; gives the points, and what follows the run.

    The points' script fills the rest, and fires `picked` with an `id`, and `grown` when the run
    has changed.
    """
    first = gr.HTML(top_html(shown), apply_default_css=False, elem_id="offer")
    settings = {"budget": shown.budget.to_json(), "first": shown.first}
    with gr.Row(elem_id="below"):
        with gr.Column(scale=6, min_width=320):
            points = scripted(
                "result", "gk-result", settings, fires=("picked", "grown"), elem_id="points"
            )
        with gr.Column(scale=5, min_width=320, elem_id="side"):
            plain("gk-selected", elem_id="facts")
    return points, Part([], [first], lambda: (top_html(shown),))


def top_html(shown: PageRun) -> str:
    """Which network to take, and how it came about."""
    found = shown.offer
    body = _without_network(shown) if found is None else _judged(shown, found)
    return f'<div class="gk-top">{body}{_how(shown)}</div>'


def _without_network(shown: PageRun) -> str:
    content = shown.content
    best = formatting.best_trials(one for one in content.trials if one.accuracy is not None)[:1]
    if not content.trials:
        text = (
            "This run has no design yet. The page shows them as they appear; a search goes on "
            f"with <code>{escape(command('search', '--out', shown.asked, '--resume'))}</code>."
        )
        return f'<section class="gk-offer"><h2>Nothing found yet</h2><p>{text}</p></section>'
    head = "No design has been trained yet"
    if best:
        head = f"The best design so far gets {formatting.percent(best[0].accuracy, 1)} right"
    text = (
        "That is of validation pictures and after a short training. No network has been trained "
        f"in full yet: <code>{escape(command('train', shown.asked))}</code>."
    )
    return f'<section class="gk-offer"><h2>{head}</h2><p>{text}</p></section>'


def _judged(shown: PageRun, offer: Offer) -> str:
    content, offered = shown.content, offer.offered
    name = escape(content.name(offered.id))
    head = f"{name} gets {formatting.percent(offered.accuracy, 1)} of the test pictures right"
    judged = content.recommendation is not None
    if judged and offer.known is not None and offer.more_accurate is None:
        other = offer.found if offered is offer.known else offer.known
        head += f", about as many as {escape(content.name(other.id))}"
    if offered is not offer.found:
        head = f"Take a known network: {head}"
    rows = [offer.found] if offer.known is None else [offer.found, offer.known]
    if offered is offer.known:
        rows.reverse()
    images = content.data.test if content.data else None
    of = f"of {images:,} test pictures" if images else "of the test pictures"
    body = "".join(_row(shown, one, offer) for one in rows)
    thumb = shown.thumbnail(offer.found.id)
    figure = ""
    if thumb:
        figure = (
            f'<figure class="gk-thumb">{thumb}<figcaption>The cell, a wiring of '
            f"{formatting.number(offer.found.nodes, 'step')}, that "
            f"{escape(content.name(offer.found.id))} repeats</figcaption></figure>"
        )
    text = (
        f"<h2>{head}</h2><p>{_comparison(shown, offer)}</p>"
        '<div class="gk-wide"><table class="gk-table gk-duel"><thead><tr><th>network</th>'
        f"<th>right, {of}</th><th>time for one picture</th><th>file</th></tr></thead>"
        f"<tbody>{body}</tbody></table></div>"
    )
    for unit in ("%", "ms", "kB", "MB"):
        text = text.replace(f" {unit}", f"\N{NO-BREAK SPACE}{unit}")
    return (
        f'<section class="gk-offer" data-offered="{escape(offered.id)}"><div>{text}'
        f"{_buttons(shown, offer)}</div>{figure}</section>"
    )


def _row(shown: PageRun, network: Network, offer: Offer) -> str:
    content = shown.content
    images = content.data.test if content.data else None
    spread = ""
    if images and network.accuracy is not None:
        low, high = (100 * end for end in interval(network.accuracy, images))
        spread = f"<small>95 % interval: {low:.1f} to {high:.1f} %</small>"
    share, latency = (
        f"<b>{text}</b>" if network is best else text
        for text, best in (
            (formatting.percent(network.accuracy, 1), offer.more_accurate),
            (formatting.latency(network.latency_ms), offer.faster),
        )
    )
    kind = (
        "found by this search"
        if isinstance(network, Model)
        else "known network, trained the same way"
    )
    file = shown.file_text(network.id)
    measured = shown.measured_to_take(network.id)
    if measured is not None and measured.precision != "fp32":
        file += f"<small>{formatting.percent(measured.accuracy, 1)} right</small>"
        latency += "<small>in fp32</small>"
    chosen = ' class="gk-offered"' if network is offer.offered else ""
    return (
        f'<tr{chosen}><th scope="row"><a href="#id={escape(network.id)}" data-id='
        f'"{escape(network.id)}">{escape(content.name(network.id))}</a><small>{kind}</small></th>'
        f"<td>{share}{spread}</td><td>{latency}</td><td>{file}</td></tr>"
    )


def _comparison(shown: PageRun, offer: Offer) -> str:
    """How the two compare in accuracy and in time, in sentences."""
    found, known, offered = offer.found, offer.known, offer.offered
    if known is None:
        return "No known network was trained beside it, so nothing says how good that is."
    other = found if offered is known else known
    best, rest = (escape(shown.content.name(one.id)) for one in (offered, other))
    what = "best known network within the same limits"
    if other is found:
        what = "best that the search found"
    points = 100 * ((other.accuracy or 0.0) - (offered.accuracy or 0.0))
    apart = f"{abs(points):.1f} points {'more' if points > 0 else 'fewer'}"
    if f"{abs(points):.1f}" == "0.0":
        apart = "as many"
    share = formatting.percent(other.accuracy, 1)
    lines = [f"{rest}, the {what}, gets {share} right: {apart}."]
    recommendation = shown.content.recommendation
    if recommendation is not None:
        aside = (
            f"{recommendation.images:,} other pictures, kept out of all training, decide which is "
            "offered"
        )
        if offer.more_accurate is None:
            lines.append(f"{aside}; they show no clear difference.")
        else:
            by = 100 * (recommendation.better_by or 0.0)
            lines.append(f"{aside}: {best} is {by:.1f} points better there.")
        lines += _passed_over(shown, offer)
    else:
        lines.append("No other pictures were kept aside to choose between the two by.")
    lines.append(_times(shown, offer, best, rest))
    return " ".join(lines)


def _passed_over(shown: PageRun, offer: Offer) -> list[str]:
    """A sentence on a found network that the test pictures favour and the choice did not."""
    reached = max(offer.found.accuracy or 0.0, offer.offered.accuracy or 0.0)
    better = [one for one in shown.content.models if (one.accuracy or 0.0) > reached]
    if not better:
        return []
    best = max(better, key=lambda one: one.accuracy or 0.0)
    name = escape(shown.content.name(best.id))
    return [
        f"{name} happens to get more of the test pictures right "
        f"({formatting.percent(best.accuracy, 1)}), but those choose nothing."
    ]


def _times(shown: PageRun, offer: Offer, best: str, rest: str) -> str:
    """Which of the two is faster, as a sentence."""
    known, fast = offer.known, offer.faster
    assert known is not None
    if offer.found.latency_ms is None or known.latency_ms is None:
        return "Which of the two is faster has not been measured."
    if fast is None:
        return "Both take about the same time."
    first, second = sorted((offer.found.latency_ms.p50, known.latency_ms.p50))
    offered = fast is offer.offered
    where = next((one.machine.get("processor") for one in fast.measurements), None)
    text = f"{best if offered else rest} is the faster one, by a factor of {second / first:.1f}"
    if where:
        text += f" (measured on {escape(str(where))})"
    if not offered and offer.more_accurate is None:
        text += "; where time matters, take that one"
    return f"{text}."


def _buttons(shown: PageRun, offer: Offer) -> str:
    offered, faster = offer.offered, offer.faster
    id = escape(offered.id)
    first = shown.download_link(offered.id) if shown.missing(offered.id) is None else ""
    last = ""
    if faster is not None and faster is not offered and offer.more_accurate is None:
        name = escape(shown.content.name(faster.id))
        if shown.missing(faster.id) is None:
            last = shown.download_link(faster.id, f"or the faster {name}")
    return (
        f'<p class="gk-take">{first}<a class="gk-button" href="#id={id}&amp;tab=try">Try it</a>'
        f'<button class="gk-button" data-id="{id}" data-fold="code">Code</button>{last}</p>'
    )


def _how(shown: PageRun) -> str:
    """One sentence on how, and what a lay person needs to know to understand it."""
    content = shown.content
    if not content.trials:
        return ""
    were = "was" if content.done == 1 else "were"
    text = f"{formatting.number(content.done, 'design')} {were} tried briefly"
    if content.models:
        text += f", the best {len(content.models)} (by accuracy and cost) trained in full"
    text += f". Asked for: {shown.budget.describe()}."
    rounds = len({trial.round for trial in content.trials})
    epochs = min((trial.epochs for trial in content.trials), default=0)
    decided = ""
    if content.recommendation is not None:
        decided = "Pictures kept aside decided which of them is offered. "
    return f"""<div class="gk-how"><p>{escape(text)}</p>
<details><summary>How does that work?</summary>
<p>A network here is one <b>cell</b>, repeated: a wiring diagram of small calculating steps.
<b>Architecture search</b> tries many wirings, and keeps those that recognise pictures well and cost
little.</p>{_examples(shown)}
<p>Each design was trained briefly ({formatting.number(epochs, "pass", "passes")} over a small share
of the pictures) and judged on <b>validation pictures</b>, which it had not been trained on. After
each <b>round</b> (there {"was" if rounds == 1 else "were"} {rounds}) the search looked at what had
done well and chose the next designs by it. The best were trained in full. {decided}They were
judged once on the <b>test pictures</b>, which had played no part before.</p>
<dl><dt>95 % interval</dt><dd>Where the share would lie if there were endlessly many test pictures
(in 95 of 100 such tests).</dd>
<dt>MACs</dt><dd>Multiply-accumulates, the multiplications for one picture. Fewer are less work,
though not always less time.</dd>
<dt>Parameters</dt><dd>The numbers that a network has learned; they make its file large or
small.</dd>
<dt>p50, p99</dt><dd>Half of all calls were faster than p50 (the median), 99 of 100 faster than
p99.</dd></dl></details></div>"""


def _examples(shown: PageRun) -> str:
    """A poor, a middling and the best design of this run, drawn small."""
    done: list[TrialSummary] = formatting.best_trials(
        one for one in shown.content.trials if one.accuracy is not None
    )
    if len(done) < 3:
        return ""
    chosen = (("among the worst", -1), ("in the middle", len(done) // 2), ("the best", 0))
    figures = "".join(
        f'<figure class="gk-thumb">{shown.thumbnail(done[place].id)}<figcaption>{text}: '
        f"{formatting.percent(done[place].accuracy, 1)}</figcaption></figure>"
        for text, place in chosen
    )
    return f'<div class="gk-examples">{figures}</div>'
