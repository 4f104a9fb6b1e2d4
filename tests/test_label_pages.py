"""The labeling application in a real browser: what is clicked, dragged or typed is what is stored, for everybody and on every screen."""

import re

import label_browser
import pytest
from label_browser import drag_by_touch, go_on, labeling_site, rate, tab_to, texts_on_cards
from labeling_site import rank_task
from playwright.sync_api import expect

from instruct_jax.data.builders import build
from instruct_jax.evaluation.human import human_win_rates
from instruct_jax.labeling import auth
from instruct_jax.labeling.tasks import Task
from instruct_jax.records import FLAGS, write_jsonl

browser = label_browser.browser
pytestmark = pytest.mark.browser
ALWAYS_ASKED = {name: False for name in FLAGS if name not in ("hallucination", "satisfies_constraint")}


@pytest.fixture
def site(browser, tmp_path):
    """One rank task of three outputs, for ann."""
    with labeling_site(browser, tmp_path, [rank_task("p1")]) as found:
        yield found


def rated(page, outputs=3):
    """Rates every output of a task 4 and comes to its ranking."""
    for _ in range(outputs):
        rate(page, 4)
        go_on(page)


def ranks_of(ranking):
    return dict(zip(ranking.completions, ranking.ranks, strict=True))


@pytest.mark.parametrize("width", [1280, 400])
def test_what_is_clicked_and_dragged_is_what_is_exported(site, width):
    page = site.page("ann", width, height=1500 if width == 400 else 800, touch=width == 400)
    said = {}
    for likert, yes, no, notes in (
        (6, ["hallucination", "opinion"], [], "made up: “the year”\nand a second line"),
        (2, ["fails_task"], ["satisfies_constraint"], ""),
        (7, [], [], "שלום"),
    ):
        text = rate(page, likert, yes, no, notes)
        flags = ALWAYS_ASKED | dict.fromkeys(yes, True) | dict.fromkeys(no, False)
        said[text] = (likert, flags, notes)
        go_on(page)
    assert set(said) == {"one", "two", "three"}
    number = texts_on_cards(page)
    wanted = {"one": 2, "two": 2, "three": 1}
    for text, rank in wanted.items():
        if width == 400:
            drag_by_touch(page, number[text], rank)
        else:
            page.locator(f"#card-{number[text]}").drag_to(
                page.locator(f".slot[data-rank='{rank}']"), source_position={"x": 40, "y": 15}
            )
        expect(page.locator(f".slot[data-rank='{rank}'] #card-{number[text]}")).to_be_visible()
    go_on(page)
    assert page.url == site.url + "/"
    (ranking,) = site.export("rankings.train")
    assert ranks_of(ranking) == wanted
    ratings = site.export("ratings.train")
    assert {row.completion: (row.likert, row.flags, row.notes) for row in ratings} == said
    assert all(row.labeler == "ann" and row.seconds > 0 for row in ratings)


@pytest.mark.parametrize("width", [1280, 400])
def test_a_task_can_be_done_by_keyboard_alone(site, width):
    page = site.page("ann", width, path="/")
    tab_to(page, "a.primary")
    page.keyboard.press("Enter")
    page.wait_for_url("**/task/*")
    said = {}
    for step, likert in enumerate((3, 5, 1), start=1):
        expect(page.locator("h1")).to_have_text(f"Rate output {step} of 3")
        page.wait_for_load_state()  # no one types before the page's script listens
        text = page.locator(".output .verbatim").text_content()
        if step == 1:
            tab_to(page, "[name=likert]")
            for key in ("ArrowRight", "ArrowRight"):  # from 1 on
                page.keyboard.press(key)
        else:
            page.keyboard.press(str(likert))
        tab_to(page, "[name=violent]")
        page.keyboard.press("ArrowRight")
        said[text] = likert
        if step == 2:
            page.keyboard.press("Control+Enter")
        else:
            tab_to(page, "#form .primary")
            page.keyboard.press("Enter")
    page.wait_for_url("**stage=rank")
    number = texts_on_cards(page)
    tab_to(page, ".card")
    for key in ("2", "3", "2"):  # a number ranks the card and goes on to the next one without a rank
        page.keyboard.press(key)
    expect(page.locator("#live")).to_have_text(re.compile("All outputs are ranked"))
    page.locator("#card-2").focus()
    steps = (
        ("ArrowLeft", 2),
        ("ArrowUp", 1),
        ("ArrowLeft", 1),
        ("ArrowDown", 2),
        ("ArrowRight", 3),
        ("ArrowRight", 3),
        ("Home", 1),
    )
    for key, rank in steps:
        page.keyboard.press(key)
        expect(page.locator(f"[data-rank='{rank}'] #card-2")).to_be_focused()
    assert page.evaluate("document.activeElement.id") == "card-2"
    expect(page.locator("#live")).to_have_text("Output 2: rank 1. All outputs are ranked.")
    page.keyboard.press("Enter")
    expect(page.locator("#reader")).to_be_visible()
    page.keyboard.press("Escape")
    tab_to(page, "#form .primary")
    page.keyboard.press("Enter")
    page.wait_for_url(site.url + "/")
    by_number = {1: 2, 2: 1, 3: 2}
    (ranking,) = site.export("rankings.train")
    assert ranks_of(ranking) == {text: by_number[n] for text, n in number.items()}
    ratings = site.export("ratings.train")
    assert {row.completion: row.likert for row in ratings} == said
    assert all(row.flags == ALWAYS_ASKED | {"violent": True} for row in ratings)


def test_cards_start_unranked_and_nothing_is_sent_before_everything_is_ranked(site):
    page = site.page("ann", 400)
    rated(page)
    expect(page.locator(".tray .card")).to_have_count(3)
    page.locator("[data-pick='1']").first.select_option("1")
    page.locator("#form .primary").click()
    expect(page.locator("#problems li")).to_have_text(
        ["Output 2 has no rank yet.", "Output 3 has no rank yet."]
    )
    assert site.export("rankings.train") == []


def test_a_draft_survives_a_lost_connection_and_a_reload(site):
    page = site.page("ann")
    page.locator("#notes").fill("first")
    expect(page.locator("#saved")).to_have_text("Saved")
    page.route("**/draft", lambda route: route.abort())
    page.locator("#notes").fill("first and second")
    page.locator("[name=likert][value='6']").check()
    expect(page.locator("#saved")).to_have_text("Not saved, retrying")
    expect(page.locator("#notice")).to_be_visible()
    page.reload()
    expect(page.locator("#notes")).to_have_value("first and second")
    page.unroute("**/draft")
    expect(page.locator("#saved")).to_have_text("Saved")
    other = site.page("ann")  # another browser: what it shows comes from the server
    expect(other.locator("#notes")).to_have_value("first and second")
    expect(other.locator("[name=likert][value='6']")).to_be_checked()


def test_a_draft_whose_acknowledgement_was_lost_is_no_other_tabs(browser, tmp_path):
    silent = """() => {
        const real = window.fetch;
        const lost = () => Promise.reject(new TypeError("no answer"));
        window.fetch = (url, options) => real(url, options).then((answer) => (url.endsWith("/draft") ? lost() : answer));
    }"""
    with labeling_site(browser, tmp_path, [Task("demonstrate", "d1", {"prompt": "Say hello."})]) as site:
        page = site.page("ann")
        page.evaluate(silent)
        page.locator("#response").fill("Hello, all of you.")
        expect(page.locator("#saved")).to_have_text("Not saved, retrying")
        go_on(page)
        (row,) = site.export("demonstrations.train")
        assert row.response == "Hello, all of you."


def test_two_tabs_of_one_task_lose_nothing_of_each_other(site):
    first = site.page("ann")
    second = site.page("ann", path="/")
    second.goto(f"{first.url}?output=2")
    first.locator("#notes").fill("of the first")
    expect(first.locator("#saved")).to_have_text("Saved")
    second.locator("#notes").fill("of the second")
    expect(second.locator("#saved")).to_have_text("Saved")
    first.locator("#notes").fill("of the first, again")
    expect(first.locator("#saved")).to_have_text("Saved")
    address = first.url
    for number, text in ((1, "of the first, again"), (2, "of the second")):
        first.goto(f"{address.split('?')[0]}?output={number}")
        expect(first.locator("#notes")).to_have_value(text)


def test_a_tab_left_behind_shows_the_newer_draft_before_it_submits_it(browser, tmp_path):
    with labeling_site(browser, tmp_path, [Task("demonstrate", "d1", {"prompt": "Say hello."})]) as site:
        first = site.page("ann")
        first.locator("#response").fill("Hel")
        expect(first.locator("#saved")).to_have_text("Saved")
        second = site.page("ann")
        second.locator("#response").fill("Hello, all of you.")
        expect(second.locator("#saved")).to_have_text("Saved")
        first.get_by_role("button", name="Submit").click()
        expect(first.locator("#problems li")).to_contain_text("newer draft")
        expect(first.locator("#response")).to_have_value("Hello, all of you.")
        assert site.export("demonstrations.train") == []
        first.locator("#response").fill("Hello, you.")
        go_on(first)
        (row,) = site.export("demonstrations.train")
        assert row.response == "Hello, you."


def test_a_session_that_ends_keeps_what_was_typed(site):
    page = site.page("ann")
    cookie = page.context.cookies()[0]["value"]
    auth.log_out(site.store, cookie)
    page.locator("#notes").fill("typed after the end")
    expect(page.locator("#notice")).to_contain_text("Your session has ended")
    page.get_by_role("link", name="Log in again").click()
    page.get_by_label("Your token").fill(site.tokens["ann"])
    page.get_by_role("button", name="Log in").click()
    expect(page.locator("#notes")).to_have_value("typed after the end")
    expect(page.locator("#saved")).to_have_text("Saved")


def test_undo_reopens_the_last_submission_and_the_second_one_counts(site):
    page = site.page("ann")
    rated(page)
    for number in (1, 2, 3):
        page.locator(f"#card-{number} select").select_option("1")
    go_on(page)
    page.get_by_role("button", name="Undo last submission").click()
    page.wait_for_url("**/task/*")
    assert site.export("rankings.train") == []
    page.get_by_role("link", name="Rank").click()
    expect(page.locator("[data-rank='1'] .card")).to_have_count(3)
    number = texts_on_cards(page)
    page.locator(f"#card-{number['two']} select").select_option("3")
    go_on(page)
    (ranking,) = site.export("rankings.train")
    assert ranks_of(ranking) == {"one": 1, "two": 3, "three": 1}


def test_a_skip_needs_a_reason_and_stores_it(site):
    page = site.page("ann")
    page.get_by_role("button", name="Skip task").click()
    page.get_by_role("button", name="Skip the task").click()
    expect(page.locator("#skip-problem")).to_have_text("Please choose a reason.")
    page.get_by_label("Outside what I know").check()
    page.get_by_label("In your words").fill("tax law")
    page.get_by_role("button", name="Skip the task").click()
    page.wait_for_url(site.url + "/")
    (skip,) = site.export("skips.train")
    assert (skip.prompt_id, skip.labeler, skip.reason) == ("p1", "ann", "Outside what I know: tax law")


def test_demonstrations_and_prompts_are_stored_as_they_were_written(browser, tmp_path):
    work = [
        Task("demonstrate", "d1", {"prompt": "Say hello."}),
        Task("write_prompt", "w1", {"brief": "anything", "style": "plain"}),
        Task("write_prompt", "w2", {"brief": "sums", "style": "few_shot"}),
    ]
    with labeling_site(browser, tmp_path, work) as site:
        page = site.page("ann")
        for _ in work:
            before = page.url
            if page.locator("#response").count():
                page.locator("#response").fill("Hello,\n  you.")
            elif page.locator("#pairs").count():
                page.locator("#instruction").fill("Add the numbers.")
                page.get_by_role("button", name="Add an example").click()
                for i, (query, answer) in enumerate((("1 1", "2"), ("wrong", "0"), ("2 2", "4"))):
                    page.get_by_label("Query").nth(i).fill(query)
                    page.get_by_label("Response").nth(i).fill(answer)
                page.get_by_role("button", name="Remove example 2").click()
                expect(page.get_by_label("Query")).to_have_count(2)
            else:
                page.get_by_label("Kind of task").select_option("brainstorming")
                page.locator("#text").fill("List rivers.")
            page.keyboard.press("Control+Enter")
            page.wait_for_url(lambda url, before=before: url != before)
        demonstrations = {(row.prompt, row.response) for row in site.export("demonstrations.train")}
        assert ("Say hello.", "Hello,\n  you.") in demonstrations
        shots = [prompt for prompt, _ in demonstrations if prompt.startswith("Add the numbers.")]
        assert len(shots) == 2 and not any("wrong" in prompt for prompt in shots)
        (prompt,) = site.export("prompts.train")
        assert (prompt.text, prompt.use_case, prompt.user) == ("List rivers.", "brainstorming", "ann")


@pytest.mark.parametrize("width", [1280, 400])
def test_prompts_for_a_use_and_with_examples_are_written_checked_and_become_records(browser, tmp_path, width):
    wanted = "A baker wants an assistant that answers customers' letters."
    work = [
        Task("write_prompt", "u1", {"brief": wanted, "style": "user_based"}),
        Task("write_prompt", "f1", {"brief": "opposites", "style": "few_shot"}),
    ]
    with labeling_site(browser, tmp_path, work) as site:
        page = site.page("ann", width)
        expect(page.locator("h1")).to_have_text("Write a prompt for this use")
        assert page.locator(".sheet .verbatim").text_content() == wanted
        page.get_by_role("button", name="Submit").click()  # with nothing written
        assert page.url != site.url + "/" and site.export("prompts.train") == []
        page.get_by_label("Kind of task").select_option("generation")
        text = "Write to Ms. Ito:\n\n  “the cake” is ready.\nשלום"
        page.get_by_label("Your prompt").fill(text)
        expect(page.locator("#count")).to_have_text("9")
        go_on(page)
        if "/task/" not in page.url:
            page.goto(site.url + "/task")
        expect(page.locator("h1")).to_have_text("Write an instruction with examples")
        page.get_by_label("Instruction", exact=True).fill("Say the opposite.")
        for i, (query, answer) in enumerate((("hot", "cold"), ("big", ""))):
            page.get_by_label("Query").nth(i).fill(query)
            page.get_by_label("Response").nth(i).fill(answer)
        page.get_by_label("Kind of task").select_option("other")
        page.get_by_role("button", name="Submit").click()
        expect(page.locator("#problems li")).to_have_count(1)  # the second example has no response
        assert site.export("demonstrations.train") == []
        page.get_by_label("Response").nth(1).fill("small")
        go_on(page)
        assert page.url == site.url + "/"
        (prompt,) = site.export("prompts.train")
        assert (prompt.text, prompt.use_case) == (text, "generation")
        assert (prompt.id, prompt.source, prompt.user) == ("u1/ann", "labeler", "ann")
        shots = {(row.prompt, row.response, row.labeler) for row in site.export("demonstrations.train")}
        assert shots == {
            ("Say the opposite.\n\nbig\nsmall\n\nhot", "cold", "ann"),
            ("Say the opposite.\n\nhot\ncold\n\nbig", "small", "ann"),
        }


def test_two_ranked_tasks_go_straight_to_win_rates_and_data_sets(browser, tmp_path):
    def task(source):
        outputs = [{"text": model, "made_by": [[model, True]]} for model in ("sft", "ppo", "base")]
        return Task("rank", source, {"prompt": f"prompt of {source}", "outputs": outputs})

    with labeling_site(browser, tmp_path, [task("p1"), task("p2")]) as site:
        page = site.page("ann")
        for ranks in ({"ppo": 1, "sft": 2, "base": 3}, {"ppo": 1, "sft": 1, "base": 2}):
            rated(page)
            for text, number in texts_on_cards(page).items():
                page.locator(f"#card-{number} select").select_option(str(ranks[text]))
            go_on(page)
        rankings = site.export("rankings.train")
    rates = human_win_rates(rankings, "sft")
    assert (rates["ppo"]["mean"], rates["base"]["mean"]) == (0.75, 0.0)  # a win and a tie; two losses
    write_jsonl(tmp_path / "records" / "rankings.train.jsonl", rankings)
    assert build(tmp_path / "records", tmp_path / "sets") == {"rankings": {"train": 2}}
