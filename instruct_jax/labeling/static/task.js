// The life of one task on a page: its draft, its clock, submitting and skipping.
//
// Nothing that was entered is lost: a change goes into localStorage at once and to the server within a second, and
// leaves localStorage only when the server has acknowledged it. The draft of a task is one object of which each page
// edits some paths (an output, the ranks); where another tab was faster, only those paths are put on top of its draft.

import { notice, post, refused, store } from "./app.js";

const DELAY = 500; // milliseconds from the last change to saving
const SLOWEST = 15000; // between two tries without a connection
const IDLE = 300; // seconds without input after which the clock stands still

const element = (id) => document.getElementById(id);
const get = (tree, path) => path.reduce((node, key) => node?.[key], tree);

const without = (paths, gone) => paths.filter((path) => !gone.some((other) => String(other) === String(path)));

// As text, whatever the order of its fields.
const canonical = (draft) => JSON.stringify(draft, (_, value) =>
  value?.constructor === Object ? Object.fromEntries(Object.entries(value).sort()) : value);

function overlay(base, over, paths) {
  const draft = structuredClone(base);
  for (const path of paths) {
    const parent = get(draft, path.slice(0, -1));
    const value = get(over, path);
    if (parent && value !== undefined) parent[path.at(-1)] = structuredClone(value);
  }
  return draft;
}

// `paths`: what this page edits; `clock`: the path of the number of seconds spent here; `show(draft)` fills the page.
export function openTask({ paths, clock, show }) {
  const state = JSON.parse(element("state").textContent);
  const place = `labeling:draft:${state.person}:${state.task}`;
  const url = `/task/${state.task}`;
  const task = { state, draft: state.draft, change, leave, submit, problems };
  let version = state.version ?? 0;
  let dirty = false;
  let sending = null;
  let waiting = 0;
  let wait = 1000;
  let over = false;
  let carried = []; // paths that an earlier page could not save
  let unsure = []; // drafts that were sent and not answered: the server may have one of them

  function adopt(draft) {
    task.draft = draft;
    show(draft);
  }

  function mark(name, text) {
    const label = element("saved");
    if (label.dataset.state === name && label.textContent === text) return;
    const before = label.dataset.state;
    label.dataset.state = name;
    label.textContent = text;
    if (name === "failed" && before !== "failed") notice("Not saved yet: no connection. What you enter is kept in this browser, and saving is tried again.");
    if (name === "saved") notice();
  }

  // ---- saving
  function change() {
    if (over) return;
    dirty = true;
    const kept = store.get(place) ?? { paths: [], draft: task.draft };
    const safe = store.set(place, {
      base: version,
      paths: [...without(kept.paths, paths), ...paths],
      draft: overlay(kept.draft, task.draft, paths),
    });
    window.onbeforeunload = safe ? null : () => (dirty ? "Not saved" : undefined);
    if (element("saved").dataset.state !== "failed") mark("saving", "Saving …");
    schedule(DELAY);
  }

  function schedule(delay) {
    clearTimeout(waiting);
    waiting = setTimeout(save, delay);
  }

  function save() {
    clearTimeout(waiting);
    sending ??= send().finally(() => { sending = null; });
    return sending;
  }

  // Resolves to true once the server has everything.
  async function send() {
    while (dirty && !over) {
      dirty = false;
      let answer;
      unsure.push(canonical(task.draft));
      try {
        answer = await post(`${url}/draft`, { version: version + 1, draft: task.draft });
      } catch {
        answer = { status: 0, data: {} };
      }
      if (answer.status === 200 || answer.status === 409) unsure = [];
      if (answer.status === 200) {
        version = answer.data.version ?? version + 1;
        wait = 1000;
      } else if (answer.status === 409 && answer.data.draft) {
        version = answer.data.version;
        adopt(overlay(answer.data.draft, task.draft, [...paths, ...carried]));
        dirty = true;
      } else {
        dirty = true;
        return failed(answer);
      }
    }
    if (over) return false;
    settle();
    mark("saved", "Saved");
    return true;
  }

  // Lets go of what the server has; another tab's part stays kept until that tab is served.
  function settle() {
    const kept = store.get(place);
    const rest = without(kept?.paths ?? [], [...paths, ...carried]);
    if (rest.length) store.set(place, { ...kept, paths: rest });
    else store.remove(place);
    carried = [];
  }

  function failed(answer) {
    if (answer.status === 0 || answer.status === 429 || answer.status >= 500) {
      mark("failed", "Not saved, retrying");
      schedule(wait);
      wait = Math.min(2 * wait, SLOWEST);
    } else {
      mark("refused", "Not saved");
      refused(answer);
    }
    return false;
  }

  // ---- what this browser kept from a page that could not save
  function restore() {
    const kept = store.get(place);
    if (!kept) return;
    const merged = overlay(state.draft, kept.draft, kept.paths);
    const use = () => { carried = kept.paths; adopt(merged); dirty = true; schedule(0); };
    if (JSON.stringify(merged) === JSON.stringify(state.draft)) return store.remove(place);
    if (kept.base === version) return use();
    element("restore").hidden = false;
    element("restore-use").onclick = () => { element("restore").hidden = true; use(); };
    element("restore-drop").onclick = () => { element("restore").hidden = true; store.remove(place); };
  }

  // ---- the clock
  const spent = () => (task.draft.outputs ?? []).reduce((sum, item) => sum + (item.seconds || 0), task.draft.seconds || 0);
  let counted = performance.now();
  let active = counted;
  let unsaved = 0;

  function tick() {
    const now = performance.now();
    const passed = Math.min((now - counted) / 1000, 2);
    counted = now;
    const running = document.visibilityState === "visible" && (now - active) / 1000 < IDLE && !over;
    if (running) {
      const parent = get(task.draft, clock.slice(0, -1));
      parent[clock.at(-1)] = Math.round(10 * ((parent[clock.at(-1)] || 0) + passed)) / 10;
      unsaved += passed;
    }
    const seconds = Math.floor(spent());
    const text = `${Math.floor(seconds / 60)}:${String(seconds % 60).padStart(2, "0")}`;
    if (element("timer").textContent !== text) element("timer").textContent = text;
  }

  for (const name of ["pointermove", "keydown", "scroll", "wheel", "touchstart"]) {
    addEventListener(name, () => { active = performance.now(); }, { passive: true, capture: true });
  }
  setInterval(tick, 1000);

  // ---- going on
  function countTime() {
    tick();
    if (unsaved >= 1) dirty = true;
    unsaved = 0;
  }

  async function leave(href) {
    countTime();
    if (await save()) location.assign(href);
  }

  // `place` of a problem: an element to focus.
  function problems(list) {
    const box = element("problems");
    const items = list.map(({ message, href, target }) => {
      const item = document.createElement("li");
      const link = document.createElement("a");
      link.textContent = message;
      link.href = href ?? "#";
      link.addEventListener("click", (event) => {
        event.preventDefault();
        if (target) target.focus();
        else if (href) leave(href);
      });
      item.append(link);
      return item;
    });
    const all = document.createElement("ul");
    all.append(...items);
    box.replaceChildren(all);
    box.hidden = list.length === 0;
    box.scrollIntoView({ block: "nearest" });
  }

  // Another tab was faster: shows its draft, with what only this page has on top, and asks for another look.
  function overtaken(newer) {
    version = newer.version;
    adopt(overlay(newer.draft, task.draft, dirty ? [...paths, ...carried] : []));
    if (dirty) schedule(0);
    return { message: "A newer draft of this task was saved in another tab. It is shown here now: look it over and submit again." };
  }

  // `body`: makes what is sent, once nothing is being saved any more.
  async function finish(action, body, button) {
    if (over) return;
    clearTimeout(waiting);
    await sending;
    clearTimeout(waiting);
    if (button) button.disabled = true;
    let answer;
    try {
      answer = await post(`${url}/${action}`, { key: state.key, ...body() });
    } catch {
      if (button) button.disabled = false;
      return notice("No connection: not sent. Everything is kept in this browser; press the button again in a moment.");
    }
    if (answer.status === 200) {
      over = true;
      window.onbeforeunload = null;
      store.remove(place);
      return location.assign(answer.data.next);
    }
    if (button) button.disabled = false;
    if (answer.status === 422) return answer.data.problems ?? [];
    if (answer.status === 409 && answer.data.draft) {
      if (!unsure.includes(canonical(answer.data.draft))) return [overtaken(answer.data)];
      version = answer.data.version; // the newer draft is this page's own
      return finish(action, body, button);
    }
    refused(answer);
  }

  // Resolves to the problems that the server found, if any.
  function submit(button) {
    tick();
    return finish("submit", () => ({ version: version + 1, draft: task.draft, seconds: Math.round(10 * spent()) / 10 }), button);
  }

  addEventListener("online", save);
  addEventListener("pagehide", () => {
    if (over) return;
    countTime();
    if (!dirty) return;
    unsure.push(canonical(task.draft));
    post(`${url}/draft`, { version: version + 1, draft: task.draft }, true).catch(() => {});
  });
  for (const link of document.querySelectorAll(`a[href^="${url}?"]`)) {
    link.addEventListener("click", (event) => {
      if (event.ctrlKey || event.metaKey || event.shiftKey) return;
      event.preventDefault();
      leave(link.href);
    });
  }
  skipDialog((reason, button) => finish("skip", () => ({ reason }), button));
  addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey) || document.querySelector("dialog[open]")) return;
    event.preventDefault();
    element("form").requestSubmit();
  });

  show(task.draft);
  restore();
  tick();
  return task;
}

function skipDialog(send) {
  const dialog = element("skip-dialog");
  const form = element("skip-form");
  const problem = element("skip-problem");
  element("skip").addEventListener("click", () => { problem.textContent = ""; dialog.showModal(); });
  element("skip-cancel").addEventListener("click", () => dialog.close());
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const chosen = form.elements.reason.value;
    const picked = form.querySelector("input[name=reason]:checked");
    const more = form.elements.more.value.trim();
    if (!picked) problem.textContent = "Please choose a reason.";
    else if (!chosen && !more) problem.textContent = "Please say what the other reason is.";
    else {
      await send([chosen, more].filter(Boolean).join(": "), event.submitter);
      dialog.close();
    }
  });
}
