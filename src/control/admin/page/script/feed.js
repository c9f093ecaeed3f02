// The edge's events. The browser's own reconnecting gives up at an error status and does not notice a silent connection;
// this one does neither.

/** The edge tells its status every second: after so long a silence the connection counts as lost. */
const SILENCE_MS = 5_000;
const RETRY_MS = [500, 1_000, 2_000, 5_000];

/** Calls `on.status(data)`, `on.history(data)`, `on.live()` and `on.lost(since)`; returns how to try again at once. */
function openFeed(on) {
  let source = null;
  let timer = 0;
  let failures = 0;
  let heard = Date.now();
  let lost = false;

  function open() {
    clearTimeout(timer);
    source?.close();
    source = new EventSource("/events");
    source.addEventListener("status", (event) => receive(event, on.status));
    source.addEventListener("history", (event) => receive(event, on.history));
    source.addEventListener("error", fail);
    timer = setTimeout(fail, SILENCE_MS);
  }

  function receive(event, deliver) {
    clearTimeout(timer);
    timer = setTimeout(fail, SILENCE_MS);
    failures = 0;
    heard = Date.now();
    live();
    deliver(JSON.parse(event.data));
  }

  function live() {
    lost = false;
    on.live();
  }

  /** As many may watch as watch already: then the same is asked for now and then. */
  async function fail() {
    source.close();
    clearTimeout(timer);
    timer = setTimeout(open, RETRY_MS[Math.min(failures, RETRY_MS.length - 1)]);
    failures += 1;
    const asked = failures;
    try {
      const [status, history] = await Promise.all(["/status", "/history"].map(fetched));
      heard = Date.now();
      live();
      on.status(status);
      on.history(history);
    } catch {
      // It may be back by now.
      if (failures < asked) return;
      if (!lost) on.lost(heard);
      lost = true;
    }
  }

  async function fetched(path) {
    const answer = await fetch(path, { signal: AbortSignal.timeout(SILENCE_MS) });
    if (!answer.ok) throw new Error(`${path}: status ${answer.status}`);
    return answer.json();
  }

  open();
  return open;
}
