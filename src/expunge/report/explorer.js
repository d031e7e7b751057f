// The rows, searched, filtered and sorted; 50 at a time. Texts only ever go in as textContent.
const explore = async () => {
  const PAGE = 50;
  const all = JSON.parse(await unpack("data-rows"));
  const $ = (id) => document.getElementById(`x-${id}`);
  const make = (tag, text, name) => {
    const made = document.createElement(tag);
    if (text !== undefined) made.textContent = text;
    if (name) made.className = name;
    return made;
  };
  const options = (id, names, first) => {
    const list = first === undefined ? [] : [[first, ""]];
    [...list, ...names.map((name, k) => [name, k])].forEach(([name, value]) => {
      const option = make("option", name);
      option.value = value;
      $(id).append(option);
    });
  };
  options("set", all.sets, "all sets");
  options("model", all.models);
  options("score", all.scores.map((score) => score.name));
  // First the rows that matter: forget rows that the last model knows better than the retain model does.
  const start = { set: all.sets.length ? "0" : "", model: String(all.models.length - 1), score: "0", order: "row" };
  start.state = all.retain !== null && all.scores.length && Number(start.model) !== all.retain ? "above" : "";
  if (!start.state) start.set = "";
  if (all.retain === null) document.querySelector("#x-state option[value=above]").remove();
  const fields = ["set", "model", "score", "state", "order"];
  fields.forEach((id) => {
    const wanted = view.get(id) ?? start[id];
    $(id).value = wanted === "all" ? "" : wanted;
    if ($(id).selectedIndex < 0) $(id).value = start[id];  // a link to a model that this page does not have
  });
  $("search").value = view.get("search") ?? "";

  const haystacks = all.id.map(() => null);  // made when a row is first searched
  const haystack = (k) =>
    (haystacks[k] ??= [all.question[k], all.answer[k], ...all.said.map((said) => said[k] ?? "")].join("\n").toLowerCase());
  const number = (value) => (value === null || value === undefined ? "–" : String(value));
  const value = (model, score, k) => all.values[model]?.[score]?.[k] ?? null;

  let found = [], from = 0;
  const search = () => {
    const words = $("search").value.toLowerCase().trim();
    const set = $("set").value, state = $("state").value, order = $("order").value;
    const model = Number($("model").value), score = Number($("score").value), threshold = Number($("threshold").value);
    const high = all.scores[score]?.known !== "low";
    const kept = (k) => {
      if (set !== "" && all.set[k] !== Number(set)) return false;
      if (state === "above") {
        const mine = value(model, score, k), control = value(all.retain, score, k);
        if (mine === null || control === null || !(high ? mine > control : mine < control)) return false;
      } else if (state) {
        const v = value(model, score, k);
        if (v === null) return false;
        const known = high ? v >= threshold : v <= threshold;
        if (known !== (state === "known")) return false;
      }
      return !words || haystack(k).includes(words);
    };
    found = all.id.map((_, k) => k).filter(kept);
    if (order !== "row") {
      const sign = order === "asc" ? 1 : -1;
      const key = (k) => value(model, score, k);
      // Rows without the score come last in either order.
      found.sort((a, b) => (key(a) === null) - (key(b) === null) || sign * (key(a) - key(b)) || a - b);
    }
    if (all.scores.length) {
      $("threshold").parentElement.hidden = state === "above";
      $("meaning").textContent = state === "above"
        ? `Rows whose ${all.scores[score].name} of ${all.models[model]} is ${high ? "above" : "below"} that of ${all.models[all.retain]}: it knows more of them than a model that never saw them.`
        : `By ${all.scores[score].name}, ${all.models[model]} still knows a row at ${threshold} or ${high ? "more" : "less"}.`;
    }
    from = 0;
    show();
  };
  const changed = () => {
    fields.forEach((id) => setView(id, $(id).value === start[id] ? "" : $(id).value || "all"));
    setView("search", $("search").value.trim());
    setView("threshold", Number($("threshold").value) === usual() ? "" : $("threshold").value);
    $("link").href = `#view?${view}`;
    search();
  };

  // Words of two texts, and which of them only one has: the longest common subsequence.
  const difference = (before, after) => {
    const a = before.split(/(\s+)/), b = after.split(/(\s+)/);
    const longest = Array.from({ length: a.length + 1 }, () => new Uint16Array(b.length + 1));
    for (let i = a.length - 1; i >= 0; i--)
      for (let j = b.length - 1; j >= 0; j--)
        longest[i][j] = a[i] === b[j] ? longest[i + 1][j + 1] + 1 : Math.max(longest[i + 1][j], longest[i][j + 1]);
    const out = make("span", undefined, "diff");
    let i = 0, j = 0;
    while (i < a.length || j < b.length) {
      if (i < a.length && j < b.length && a[i] === b[j]) { out.append(a[i]); i++; j++; }
      else if (j >= b.length || (i < a.length && longest[i + 1][j] >= longest[i][j + 1])) out.append(make("del", a[i++]));
      else out.append(make("ins", b[j++]));
    }
    return out;
  };

  const inside = (k) => {
    const place = make("div", undefined, "inside");
    const answer = make("p");
    answer.append(make("strong", "True answer: "), make("span", all.answer[k]));
    const table = make("table", undefined, "left");
    table.append(make("caption", "What each model says, and its scores."));
    const head = table.createTHead().insertRow();
    ["model", "says", ...all.scores.map((score) => score.name)].forEach((name, k) => {
      const cell = make("th", name, k > 1 ? "num" : "");
      cell.scope = "col";
      head.append(cell);
    });
    const body = table.createTBody();
    all.models.forEach((name, m) => {
      const line = body.insertRow();
      const first = make("th", name);
      first.scope = "row";
      const said = all.said[m][k];
      line.append(first, make("td", said === null ? "(not asked)" : said.trim() ? said : "(nothing)", "says"));
      all.scores.forEach((score, s) => {
        const cell = make("td", number(value(m, s, k)), "num");
        cell.dataset.head = score.name;
        line.append(cell);
      });
    });
    const scroll = make("div", undefined, "scroll");
    scroll.append(table);
    place.append(answer);
    const model = Number($("model").value), before = all.full === null ? null : all.said[all.full][k];
    if (before !== null && all.full !== model && all.said[model][k] !== null) {
      const line = make("p");
      line.append(make("strong", `From ${all.models[all.full]} to ${all.models[model]}: `), difference(before, all.said[model][k]));
      place.append(line);
    }
    place.append(scroll);
    return place;
  };

  const show = () => {
    const shown = found.slice(from, from + PAGE);
    const model = Number($("model").value), score = Number($("score").value);
    $("rows").replaceChildren(...shown.map((k) => {
      const item = make("li"), row = make("details"), line = make("summary");
      line.append(
        make("span", `${all.sets[all.set[k]]}, row ${all.id[k]}`, "where"),
        make("span", all.question[k] || all.answer[k], "asked"),
        make("span", all.scores.length ? `${all.scores[score].name} ${number(value(model, score, k))}` : "", "score"),
      );
      row.append(line);
      row.addEventListener("toggle", () => { if (row.open && row.children.length === 1) row.append(inside(k)); });
      item.append(row);
      return item;
    }));
    const of = found.length === all.id.length ? `${found.length} rows` : `${found.length} found of ${all.id.length} rows`;
    $("count").textContent = found.length ? `Rows ${from + 1} to ${from + shown.length} of ${of}` : `No row is like that (0 of ${all.id.length})`;
    $("back").disabled = from === 0;
    $("next").disabled = from + PAGE >= found.length;
  };

  let waiting = 0;
  const soon = () => { clearTimeout(waiting); waiting = setTimeout(changed, 150); };
  $("search").addEventListener("input", soon);
  $("threshold").addEventListener("input", soon);
  // A truth ratio is read against 1, where right and wrong answers are as likely; the others run from 0 to 1.
  const usual = () => (all.scores[$("score").value]?.known === "low" ? 1 : 0.5);
  $("threshold").value = view.get("threshold") ?? usual();
  $("score").addEventListener("change", () => { $("threshold").value = usual(); });
  fields.forEach((id) => $(id).addEventListener("change", changed));
  document.querySelector("form.filters").addEventListener("submit", (event) => { event.preventDefault(); changed(); });
  $("back").addEventListener("click", () => { from = Math.max(0, from - PAGE); show(); });
  $("next").addEventListener("click", () => { from += PAGE; show(); });
  document.getElementById("explorer-app").hidden = false;
  search();
  if (["search", ...fields].some((id) => view.has(id))) document.getElementById("h-rows").scrollIntoView();
};
explore().catch((error) => {
  document.getElementById("explorer").append("The rows could not be shown: this browser is too old, or stopped the script.");
  console.error(error);
});
