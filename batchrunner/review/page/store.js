// The batch as the server sends it, and the verdicts that this page has given. It draws nothing.

const UNSAVED = "batchrunner-unsaved:";
const RETRY_MS = [500, 1000, 2000, 4000];

export class Store extends EventTarget {
  rows = new Map();
  ids = [];
  jobs = new Map();  // ids of the takes of each job
  head = { name: "", counts: {}, total: 0 };
  reasons = [];
  problem = "";
  isLoaded = false;
  isLost = false;    // the server does not answer
  saved = 0;         // verdicts that the server has stored for this page
  isForeign = false; // another server answers: this address is no longer valid
  #state = { boot: "", version: 0, list_version: 0 };
  #queue = [];       // verdicts that are not saved, oldest first
  #latest = new Map(); // the latest of them for each row
  #isSending = false;
  #page = `${Date.now()}-${Math.random()}`;
  #events = null;
  #loading = null;

  async start() {
    const first = await this.#get("api/batch");
    this.reasons = first.reasons;
    this.batch = first.batch;
    await this.load();
    this.#restore();
    this.#listen();
    document.addEventListener("visibilitychange", () => (document.hidden ? this.#deafen() : this.#listen()));
  }

  async load() {
    this.#loading ??= this.#loadAll().finally(() => { this.#loading = null; });
    return this.#loading;
  }

  async #loadAll() {
    const rows = new Map();
    let page;
    do {
      page = await this.#get(`api/rows?start=${rows.size}`);
      for (const row of page.rows) rows.set(row.id, row);
      if (!this.isLoaded && rows.size < page.head.total) this.#show(rows, page);  // the first rows at once
    } while (page.rows.length && rows.size < page.head.total);
    this.#show(rows, page);
    this.isLoaded = true;
    this.#tell("change");
  }

  #show(rows, page) {
    this.rows = rows;
    this.ids = [...rows.keys()];
    this.jobs = new Map();
    for (const row of rows.values()) {
      if (!this.jobs.has(row.job)) this.jobs.set(row.job, []);
      this.jobs.get(row.job).push(row.id);
    }
    this.#note(page);
    this.#tell("list");
  }

  #note(page) {
    this.#state = { boot: page.boot, version: page.version, list_version: page.list_version };
    this.head = page.head;
    this.problem = page.problem;
  }

  // Changes of the batch

  #listen() {
    if (this.#events || document.hidden) return;
    const { boot, version } = this.#state;
    this.#events = new EventSource(`api/events?boot=${boot}&version=${version}`);
    this.#events.onopen = () => { this.#found(); };
    this.#events.onmessage = (event) => this.#take(JSON.parse(event.data));
    this.#events.onerror = () => {
      this.#deafen();
      this.#lose();
      setTimeout(() => this.#listen(), RETRY_MS[2]);
    };
  }

  #deafen() {
    this.#events?.close();
    this.#events = null;
  }

  #take(change) {
    if (change.rows === null || change.boot !== this.#state.boot) {
      this.#note(change);
      this.load().catch(() => this.#lose());
      return;
    }
    for (const row of change.rows) this.rows.set(row.id, row);
    this.#note(change);
    this.#tell(change.rows.length ? "rows" : "change");
  }

  #lose() {
    if (this.isLost) return;
    this.isLost = true;
    this.#tell("change");
  }

  #found() {
    if (!this.isLost) return;
    this.isLost = false;
    this.#tell("change");
    this.#send();
  }

  // Verdicts

  // The verdict that counts for the clip of a row: accept, reject or none.
  verdict(row) {
    return this.#unsaved(row)?.verdict ?? row.verdict?.verdict ?? (row.is_refused ? "reject" : "none");
  }

  #unsaved(row) {
    const latest = this.#latest.size ? this.#latest.get(row.id) : undefined;
    return latest?.sha256 === row.sha256 ? latest : undefined;
  }

  record(row) {
    const unsaved = this.#unsaved(row);
    if (unsaved) return unsaved;
    const stands = row.verdict ?? { verdict: row.is_refused ? "reject" : "none" };
    return { reasons: [], rating: null, note: "", ...stands };
  }

  // A job is settled by one accepted take.
  isSettled(row) {
    return this.jobs.get(row.job).some((id) => this.verdict(this.rows.get(id)) === "accept");
  }

  isUndecided(row) {
    return Boolean(row.sha256) && this.verdict(row) === "none" && !this.isSettled(row);
  }

  get unsaved() {
    return this.#queue.length;
  }

  put(row, verdict, reasons, note, rating) {
    this.#queue.push({ id: row.id, sha256: row.sha256, verdict, reasons, note, rating, at: new Date().toISOString() });
    this.#keep();
    this.#tell("verdict");
    this.#send();
  }

  async #send() {
    if (this.#isSending || this.isForeign) return;
    this.#isSending = true;
    for (let tries = 0; this.#queue.length; ) {
      const { at, ...body } = this.#queue[0];
      const answer = await this.#post("api/verdict", body);
      if (answer === null) {  // no answer: the verdict stays in the queue
        this.#lose();
        if (tries >= RETRY_MS.length) tries = RETRY_MS.length - 1;
        await new Promise((done) => setTimeout(done, RETRY_MS[tries]));
        tries++;
        continue;
      }
      if (answer.status === 404 || answer.status === 403) {
        this.isForeign = true;
        break;
      }
      this.isLost = false;
      tries = 0;
      this.#queue.shift();
      this.#keep();
      if (answer.body.row) {
        this.saved++;
        this.rows.set(answer.body.row.id, answer.body.row);
      } else this.#tell("refused", `${body.id}: not saved. ${answer.body.error ?? `The server answered ${answer.status}.`}`);
      this.#tell("verdict");
    }
    this.#isSending = false;
    this.#tell("change");
  }

  async #post(path, body) {
    try {
      const answer = await fetch(path, {
        method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body),
      });
      const type = answer.headers.get("Content-Type") ?? "";
      return { status: answer.status, body: type.includes("json") ? await answer.json() : {} };
    } catch {
      return null;
    }
  }

  // Verdicts that are not saved are kept by the browser too: a page that is opened later saves them.
  // Each page has its own entry, so pages do not overwrite each other's.
  #keep() {
    this.#latest = new Map(this.#queue.map((item) => [item.id, item]));
    const name = `${UNSAVED}${this.batch}:${this.#page}`;
    try {
      if (this.#queue.length) localStorage.setItem(name, JSON.stringify(this.#queue));
      else localStorage.removeItem(name);
    } catch { /* without a store they live as long as the page */ }
  }

  #restore() {
    const kept = [];
    try {
      const prefix = `${UNSAVED}${this.batch}:`;
      for (const name of Object.keys(localStorage).filter((key) => key.startsWith(prefix))) {
        kept.push(...JSON.parse(localStorage.getItem(name)));
        localStorage.removeItem(name);
      }
    } catch { /* none */ }
    kept.sort((one, other) => (one.at < other.at ? -1 : 1));
    const stands = (item) => {
      const row = this.rows.get(item.id);
      return row?.sha256 === item.sha256 && (row.verdict?.at ?? "") < item.at;
    };
    this.#queue = kept.filter(stands);
    this.#keep();
    if (this.#queue.length) {
      this.#tell("restored", this.#queue.length);
      this.#tell("rows");
      this.#send();
    }
  }

  async #get(path) {
    const answer = await fetch(path);
    if (!answer.ok) throw new Error(`${path}: ${answer.status}`);
    return answer.json();
  }

  #tell(kind, detail) {
    this.dispatchEvent(new CustomEvent(kind, { detail }));
  }
}
