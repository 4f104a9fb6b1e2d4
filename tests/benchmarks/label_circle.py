"""The full circle of labeling on the quickstart's checkpoints: sample, label in Chromium, export, train, count who was preferred.

    PYTHONPATH=.:tests .venv/bin/python tests/benchmarks/label_circle.py [--folder runs/label_circle] [--rank 120] [--judge 40]

Needs a finished quickstart and takes about half an hour. Every command is one that a user would type and is printed; people are played: the
lab's simulated labelers, who know of a task only the prompt and outputs that their page shows, log in, rate every output and set its
flags, and rank by mouse, by keyboard, or by menu on a narrow screen. Three people of the training pool rank SFT's outputs for the
reward model; two of each pool judge SFT and PPO-ptx on test prompts. The reward model is then asked about what the held-out ones
said. Writes `folder`/summary.json, and screenshots of every page on the way. A folder that is there is begun anew.
"""

import argparse
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
from label_browser import go_on, open_chromium, rate, texts_on_cards
from ml_collections import ConfigDict
from playwright.sync_api import sync_playwright

from instruct_jax.algorithms.statistics import pairwise_agreement
from instruct_jax.data.lab import labelers
from instruct_jax.evaluation.human import human_win_rates
from instruct_jax.evaluation.reward_models import ranking_accuracy
from instruct_jax.evaluation.winrate import as_dict
from instruct_jax.models.transformer import ScalarModel
from instruct_jax.records import Prompt, Ranking, read_jsonl
from instruct_jax.stages import inference, recipe, setup
from instruct_jax.stages.lab_data import LabSettings, make_lab
from instruct_jax.stages.settings import section

ROOT = Path(__file__).resolve().parents[2]
QUICKSTART = Path("runs/quickstart")
HABITS = ("mouse", "keyboard", "menu")


def run(*words) -> str:
    """Prints a command of this package as one would type it, runs it, and gives back what it printed."""
    print("$ python -m", *words, flush=True)
    done = subprocess.run(
        [sys.executable, "-m", *map(str, words)], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True
    )
    print(done.stdout, end="", flush=True)
    return done.stdout


@contextlib.contextmanager
def served(*words):
    """(address, researcher's token) of the labeling application, until Ctrl-C as a person would press it."""
    print("$ python -m instruct_jax.label", *words, flush=True)
    command = [sys.executable, "-m", "instruct_jax.label", *map(str, words), "--port", "0"]
    server = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    lines = []
    while not lines or not lines[-1].startswith("http"):
        lines.append(server.stdout.readline().strip())
        assert lines[-1], "the server ended"
    print(*lines, sep="\n", flush=True)
    try:
        yield lines[-1], next(line.rpartition(" ")[2] for line in lines if "token" in line)
    finally:
        server.send_signal(signal.SIGINT)
        server.wait()


class World:
    """The quickstart's lab: whose simulated labelers read what a page shows."""

    def __init__(self):
        config = recipe.resolve(ConfigDict(json.loads((QUICKSTART / "config.json").read_text())))
        self.text = section(config, "text", setup.TextSettings)
        self.lab = make_lab(section(config, "lab", LabSettings), self.text)
        records = QUICKSTART / "records"
        asked = [read_jsonl(records / f"prompts.{split}.jsonl", Prompt) for split in ("train", "test")]
        self.prompts = {prompt.text: prompt for prompts in asked for prompt in prompts}

    def rate(self, person, prompt: str, text: str):
        """A Rating of one output."""
        asked = self.prompts[prompt]
        return labelers.rate(person, self.lab.world, asked, self.lab.tasks[asked.id], text, "", ends(text))

    def rank(self, person, prompt: str, texts: list[str]) -> dict[str, int]:
        """{output: rank}."""
        asked, ended = self.prompts[prompt], [ends(text) for text in texts]
        task = self.lab.tasks[asked.id]
        found = labelers.rank(person, self.lab.world, asked, task, texts, [""] * len(texts), ended)
        return dict(zip(texts, found.ranks, strict=True))


def ends(text: str) -> bool:
    """Whether an output reads as finished: labelers are not told."""
    return text.endswith((".", "?", "!"))


class Visitor:
    """Somebody at a browser: logs in by the form, as everybody does."""

    def __init__(self, browser, url: str, token: str, pictures: Path, width: int = 1280):
        height = 800 if width > 600 else 860
        self.context = browser.new_context(viewport={"width": width, "height": height})
        self.page, self.url, self.pictures, self.width = self.context.new_page(), url, pictures, width
        self.page.goto(url)
        self.shoot("login")
        self.page.get_by_label("Your token").fill(token)
        self.page.get_by_role("button", name="Log in").click()
        self.page.wait_for_selector("text=Log out")

    def shoot(self, name: str) -> None:
        """A picture of the page, one of each name and width."""
        path = self.pictures / f"{name}-{self.width}.png"
        if not path.exists():
            self.page.screenshot(path=path, full_page=True)


def add_people(visitor: Visitor, people: list[tuple[str, str]]) -> dict[str, str]:
    """{id: token} of the (id, pool) that a researcher adds on their page."""
    page, tokens = visitor.page, {}
    page.get_by_role("link", name="People").click()
    for person, pool in people:
        page.get_by_label("Id").fill(person)
        page.get_by_label("Pool").select_option(pool)
        page.get_by_role("button", name="Add and make a token").click()
        tokens[person] = page.locator("#token").text_content()
    visitor.shoot("people")
    return tokens


def work(visitor: Visitor, person, habit: str, world: World) -> int:
    """Labels until nothing is left; the number of tasks done."""
    page, done = visitor.page, 0
    visitor.shoot("home")
    while True:
        page.goto(visitor.url + "/task")
        if "/task/" not in page.url:
            visitor.shoot("home-done")
            return done
        label_one(visitor, person, habit, world)
        done += 1


def label_one(visitor: Visitor, person, habit: str, world: World) -> None:
    """Both stages of the task on the page."""
    page = visitor.page
    prompt = page.locator(".sheet .verbatim").first.text_content()
    while page.locator("[name=likert]").count():
        said = world.rate(person, prompt, page.locator(".output .verbatim").text_content())
        always = [name for name in said.flags if page.locator(f"[name={name}][value=unasked]").count() == 0]
        yes = [name for name, answer in said.flags.items() if answer]
        no = [name for name, answer in said.flags.items() if not answer and name not in always]
        if habit == "keyboard":
            page.keyboard.press(str(said.likert))
        rate(page, said.likert, yes, no)
        visitor.shoot("rate")
        go_on(page)
        if "/task/" not in page.url:
            return  # all outputs were the same text
    cards = texts_on_cards(page)
    ranks = world.rank(person, prompt, list(cards))
    visitor.shoot("rank-begun")
    for text, number in cards.items():
        card, rank = page.locator(f"#card-{number}"), ranks[text]
        if habit == "mouse":
            card.drag_to(page.locator(f".slot[data-rank='{rank}']"), source_position={"x": 40, "y": 15})
        elif habit == "keyboard":
            card.press(str(rank))
        else:
            card.locator("select").select_option(str(rank))
        page.wait_for_selector(f".slot[data-rank='{rank}'] #card-{number}")
    visitor.shoot("rank")
    go_on(page)


def label(folder: Path, phase: str, people: list[tuple], world: World, browser) -> dict:
    """Serves the samples in `folder`, has `people` (simulated labeler, pool) label all of it, and exports; counts and seconds."""
    files = ("--db", folder / "labels.db", "--tasks", folder / "generations.jsonl", "--phase", phase)
    pictures, began = folder / "pictures", time.perf_counter()
    pictures.mkdir()
    with served(*files) as (url, token):
        researcher = Visitor(browser, url, token, pictures)
        tokens = add_people(researcher, [(person.id, pool) for person, pool in people])
        done = {}
        for n, (person, _) in enumerate(people):
            habit = HABITS[n % len(HABITS)]
            visitor = Visitor(browser, url, tokens[person.id], pictures, 400 if habit == "menu" else 1280)
            done[person.id] = work(visitor, person, habit, world)
            visitor.context.close()
            print(f"{person.id} ({habit}): {done[person.id]} tasks", flush=True)
        for width in (1280, 400):
            researcher.page.set_viewport_size({"width": width, "height": 800})
            researcher.width = width
            for path in ("", "/disagreements", "/screening", "/people"):
                researcher.page.goto(f"{url}/researcher{path}")
                researcher.shoot(f"researcher{path.replace('/', '-')}")
    seconds = time.perf_counter() - began
    run("instruct_jax.label", "--db", folder / "labels.db", "--export", folder / "records")
    return {"tasks": done, "seconds": round(seconds, 1)}


def reward_accuracy(reward: Path, rankings: list[Ranking], world: World) -> dict:
    """How often the reward model orders outputs as people did."""
    opened = setup.open_model(reward)
    mesh = setup.open_mesh(setup.MeshSettings())
    tokenizer = setup.load_tokenizer(world.text)
    model, width = ScalarModel(opened.config), world.text.max_prompt + world.text.max_response
    with jax.set_mesh(mesh):
        score = inference.make_scorer(model, tokenizer, mesh, width=width, batch_size=32)
        rows = [
            (row.prompt, text, end)
            for row in rankings
            for text, end in zip(row.completions, row.finished, strict=True)
        ]
        scores = iter(score(opened.load(mesh), rows, setup.template(opened.template, tokenizer)))
    by_ranking = [[float(next(scores)) for _ in row.completions] for row in rankings]
    return ranking_accuracy(by_ranking, [row.ranks for row in rankings], [row.prompt_id for row in rankings])


def agreement(rankings: list[Ranking]) -> dict | None:
    """How often two people who ranked the same outputs agree on a pair that both decided; None where nobody met."""
    met: dict[str, list[list[int]]] = {}
    for row in rankings:
        met.setdefault(row.prompt_id, []).append(row.ranks)
    pairs = [ranks for ranks in met.values() if len(ranks) > 1]
    if not pairs:
        return None
    return as_dict(pairwise_agreement(pairs).rate)


def rankings_of(folder: Path, split: str) -> list[Ranking]:
    return read_jsonl(folder / "records" / f"rankings.{split}.jsonl", Ranking)


def sides_won(rows: list[Ranking], baseline: str = "sft") -> dict:
    return human_win_rates(rows, baseline)["ppo_ptx"]


def circle(folder: Path, rank: int, judge: int) -> dict:
    """All of it; the figures."""
    world, rm, test = World(), folder / "rm", folder / "test"
    training, heldout = world.lab.labelers[:3], world.lab.heldout_labelers[:2]
    main = "instruct_jax.main"
    run(main, "--config", "configs/rm/human_outputs.py", "--workdir", rm, f"--config.sample.prompts={rank}")
    run(main, "--config", "configs/evaluate/human.py", "--workdir", test, f"--config.sample.prompts={judge}")
    with sync_playwright() as playwright:
        browser = open_chromium(playwright)
        asked = label(rm, "training", [(person, "training") for person in training], world, browser)
        both = [(person, "training") for person in training[:2]]
        both += [(person, "heldout") for person in heldout]
        judged = label(test, "evaluation", both, world, browser)
        browser.close()
    run("instruct_jax.data", "build", "--records", rm / "records", "--out", rm / "data")
    run(main, "--config", "configs/rm/human.py", "--workdir", rm / "rm", f"--config.data.dir={rm / 'data'}")
    for split in ("train", "heldout"):
        said = test / "records" / f"rankings.{split}.jsonl"
        run("instruct_jax.label", "--win-rates", said, "--baseline", "sft")
    ranked, said = rankings_of(rm, "train"), {s: rankings_of(test, s) for s in ("train", "heldout")}
    lines = (rm / "rm" / "metrics.jsonl").read_text().splitlines()
    logged = [json.loads(line) for line in lines if "rm/loss" in line]
    return {
        "for training": asked | {"rankings": len(ranked), "agreement": agreement(ranked)},
        "for evaluation": judged | {f"rankings {s}": len(rows) for s, rows in said.items()},
        "agreement, held-out": agreement(said["heldout"]),
        "PPO-ptx preferred to SFT": {s: sides_won(rows) for s, rows in said.items()},
        "reward model": {"steps": logged[-1]["step"], "losses": [round(row["rm/loss"], 4) for row in logged]},
        "orders held-out people's pairs": {
            "trained on the rankings": reward_accuracy(rm / "rm" / "reward", said["heldout"], world),
            "quickstart's own": reward_accuracy(QUICKSTART / "rm" / "reward", said["heldout"], world),
        },
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path("runs/label_circle"))
    parser.add_argument("--rank", type=int, default=120, help="training prompts to rank outputs of")
    parser.add_argument("--judge", type=int, default=40, help="test prompts to judge models on")
    options = parser.parse_args()
    os.chdir(ROOT)
    if not (QUICKSTART / "finished.json").exists():
        sys.exit(f"no finished quickstart in {QUICKSTART}: bash launch/quickstart.sh")
    shutil.rmtree(options.folder, ignore_errors=True)
    found = circle(options.folder, options.rank, options.judge)
    (options.folder / "summary.json").write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
