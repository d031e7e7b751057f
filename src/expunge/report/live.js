// Served while the study runs: ask now and then whether there is a newer page, and take it.
let tag = null;
const ask = async () => {
  try {
    const answer = await fetch(location.pathname, { method: "HEAD", cache: "no-store" });
    const now = answer.headers.get("ETag");
    if (tag !== null && now !== tag) location.reload();
    tag = now;
  } catch {
    // The server has ended: the page stays as it is.
  }
};
ask();
setInterval(ask, 5000);
