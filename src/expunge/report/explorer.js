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
  const last = all.models.length - 1;
  $("model").value = last;

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
      if (state) {
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
      $("meaning").textContent =
        `By ${all.scores[score].name}, ${all.models[model]} still knows a row at ${threshold} or ${high ? "more" : "less"}.`;
    }
    from = 0;
    show();
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
    place.append(answer, scroll);
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
  const soon = () => { clearTimeout(waiting); waiting = setTimeout(search, 150); };
  $("search").addEventListener("input", soon);
  $("threshold").addEventListener("input", soon);
  // A truth ratio is read against 1, where right and wrong answers are as likely; the others run from 0 to 1.
  $("score").addEventListener("change", () => { $("threshold").value = all.scores[$("score").value].known === "low" ? 1 : 0.5; });
  ["set", "model", "score", "state", "order"].forEach((id) => $(id).addEventListener("change", search));
  document.querySelector("form.filters").addEventListener("submit", (event) => { event.preventDefault(); search(); });
  $("back").addEventListener("click", () => { from = Math.max(0, from - PAGE); show(); });
  $("next").addEventListener("click", () => { from += PAGE; show(); });
  document.getElementById("explorer-app").hidden = false;
  search();
};
explore().catch((error) => {
  document.getElementById("explorer").append("The rows could not be shown: this browser is too old, or stopped the script.");
  console.error(error);
});
