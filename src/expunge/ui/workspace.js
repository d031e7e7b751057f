"use strict";
// The filters of the studies. The view is in the address after #view?, as in the reports.
const byId = (id) => document.getElementById(id);
const view = new URLSearchParams(location.hash.startsWith("#view?") ? location.hash.slice(6) : "");
const filters = { words: byId("f-words"), state: byId("f-state"), method: byId("f-method"), order: byId("f-order") };

const filter = () => {
  const body = byId("studies").tBodies[0], lines = [...body.rows];
  const words = filters.words.value.toLowerCase().split(/\s+/).filter(Boolean);
  let shown = 0;
  for (const line of lines) {
    const text = line.textContent.toLowerCase();
    line.hidden = !(words.every((word) => text.includes(word))
      && (!filters.state.value || line.dataset.state === filters.state.value)
      && (!filters.method.value || line.dataset.methods.split("\n").includes(filters.method.value)));
    shown += !line.hidden;
  }
  const byName = filters.order.value === "name";
  lines.sort((a, b) => byName ? a.dataset.name.localeCompare(b.dataset.name) : b.dataset.changed - a.dataset.changed);
  body.append(...lines);
  byId("f-count").textContent = shown === lines.length ? `${shown} studies` : `${shown} of ${lines.length} studies`;
};

if (byId("filters")) {
  for (const [name, control] of Object.entries(filters)) {
    if (view.has(name)) control.value = view.get(name);
    control.addEventListener("input", () => {
      if (control.value) view.set(name, control.value);
      else view.delete(name);
      history.replaceState(null, "", `#view?${view}`);
      filter();
    });
  }
  byId("filters").addEventListener("submit", (event) => event.preventDefault());
  byId("filters").hidden = false;
  filter();
}

// The running studies, asked for every two seconds. Texts are set as text, never as markup.
const put = (tag, text, parent) => {
  const element = document.createElement(tag);
  element.textContent = text;
  parent.append(element);
  return element;
};

const card = (run) => {
  const article = document.createElement("article");
  article.className = "card";
  put("h3", run.name, article);
  const bar = put("progress", "", article);
  bar.max = run.total;
  bar.value = run.done;
  bar.setAttribute("aria-label", `${run.name}: finished jobs`);
  put("p", run.text, article).className = "quiet";
  const list = put("ul", "", article);
  list.className = "jobs";
  for (const job of run.jobs) {
    const units = job.total ? `: ${job.done} of ${job.total}` : "";
    put("li", `${job.name}${units}, ${job.time}`, list);
  }
  return article;
};

const follow = async () => {
  try {
    const { mark, runs } = await (await fetch("/runs.json", { cache: "no-store" })).json();
    byId("runs").replaceChildren(...runs.map(card));
    byId("no-runs").hidden = runs.length > 0;
    if (mark !== document.body.dataset.mark && !byId("changed").hasChildNodes()) {
      byId("changed").append("There is something new. ");
      put("a", "Show it", byId("changed")).href = "/";
    }
  } catch {
    byId("changed").textContent = "The server has ended: this page stays as it is.";
    clearInterval(following);
  }
};
const following = setInterval(follow, 2000);
follow();
document.documentElement.dataset.drawn = "yes";
