// The labelling view. It is stateless: the session (semsim.annotate.session.Session) decides what is shown next.
// An answer is kept in the browser until the session confirms that it is in the file;
// until then the page says "Not saved".
const PATIENCE = 3000;   // milliseconds before an unanswered message is sent again
const SIDE = 320;        // a picture is enlarged to the largest whole multiple of its size that fits, in CSS pixels

// Text is inserted as text, never as HTML: a class may be called "<script>".
function element(parent, tag, className = "", text = "") {
  const made = parent.ownerDocument.createElement(tag);
  made.className = className;
  made.textContent = text;
  return parent.appendChild(made);
}

function randomId() {
  return Array.from(crypto.getRandomValues(new Uint8Array(12)), byte => byte.toString(16).padStart(2, "0")).join("");
}

// Stays the same when the page is reloaded; differs between tabs.
function tabId() {
  const kept = sessionStorage.getItem("semsim-tab") ?? randomId();
  sessionStorage.setItem("semsim-tab", kept);
  return kept;
}

const plain = name => name.toLowerCase().replaceAll("_", " ");
const pause = milliseconds => new Promise(resolve => setTimeout(resolve, milliseconds));

function render({ model, el }) {
  const client = randomId(), tab = tabId(), ended = new AbortController();
  let state = null, shownAt = 0, busy = true, marked = 0, sent = 0;

  const root = element(el, "div", "semsim-annotate");
  root.tabIndex = 0;
  root.dataset.lmSuppressShortcuts = "true"; // JupyterLab must not handle the keys
  const head = element(root, "div", "semsim-head");
  const bar = element(head, "progress"), count = element(head, "span", "semsim-count");
  const question = element(root, "div", "semsim-question");
  const pictures = element(root, "div", "semsim-pictures");
  const typed = element(root, "input", "semsim-typed");
  const choices = element(root, "div", "semsim-choices");
  const foot = element(root, "div", "semsim-foot");
  const undo = element(foot, "button", "semsim-undo", "Undo (Backspace)");
  const status = element(foot, "span", "semsim-status");
  const away = element(root, "div", "semsim-away", "Click here to answer by keyboard.");
  status.setAttribute("role", "status");
  typed.setAttribute("aria-label", "Type the beginning of a class name");
  typed.placeholder = "type a class, Enter to answer";

  // ---- talking to the session ----
  const replies = new Map();
  const hear = reply => { replies.get(reply.to)?.(reply); };
  model.on("msg:custom", hear);

  // Waits for the reply. The message is sent again until there is one, with the same content each time.
  function ask(message) {
    const to = `${client}-${sent++}`;
    const send = () => { try { model.send({ ...message, to, client, tab }); } catch { /* no kernel: sent again */ } };
    return new Promise(resolve => {
      const again = setInterval(() => {
        silence();
        send();
      }, PATIENCE);
      const stop = () => {
        clearInterval(again);
        replies.delete(to);
      };
      ended.signal.addEventListener("abort", stop);
      replies.set(to, reply => {
        stop();
        resolve(reply);
      });
      send();
    });
  }
  const noAnswer = "Nothing answers: is the kernel busy, or was it restarted? If so, run the cell again.";
  const silence = () => say(noAnswer, true);

  function say(text, wrong = false) {
    const kept = wrong && busy && localStorage.getItem(place());
    status.textContent = kept ? `Not saved. ${text} Your answer is kept here and sent again.` : text;
    status.classList.toggle("semsim-wrong", wrong);
  }

  const place = () => `semsim-unsaved-${state?.session}`;

  // Sends an answer or an undo until the session confirms that it is in the file.
  async function submit(message) {
    busy = true;
    root.classList.add("semsim-busy");
    localStorage.setItem(place(), JSON.stringify(message));
    for (;;) {
      const reply = await ask(message);
      if (reply.refused) return refuse(reply.refused);
      if (!reply.error) {
        localStorage.removeItem(place());
        show(reply.state);
        return say(reply.notice ?? "Saved.", Boolean(reply.notice));
      }
      say(reply.error, true);
      await pause(PATIENCE);
      if (ended.signal.aborted) return;
    }
  }

  async function open() {
    const reply = await ask({ kind: "open" });
    if (reply.error) {
      say(reply.error, true);
      await pause(PATIENCE);
      return ended.signal.aborted || open();
    }
    if (reply.refused) return refuse(reply.refused);
    state = reply.state;
    const kept = localStorage.getItem(place()); // from before a reload, a restart or a crash
    show(state);
    if (kept) return submit(JSON.parse(kept));
    say(state.notes.join(" "), state.notes.length > 0);
  }

  async function refuse(text) {
    busy = true;
    say(text, true);
    await pause(PATIENCE);
    if (!ended.signal.aborted) open();
  }

  // ---- showing ----
  async function picture(parent, uri, words) {
    const image = element(parent, "img");
    image.alt = words;
    image.src = uri;
    await image.decode();
    const side = Math.max(image.naturalWidth, image.naturalHeight);
    const factor = Math.max(1, Math.floor(SIDE / side)); // a whole number, so that all pixels are equally wide
    image.style.width = `${image.naturalWidth * factor}px`;
  }

  // Shows the picture. When it is visible, answers are accepted and the response time starts.
  async function present() {
    const position = state.position;
    const there = [picture(pictures, state.picture, `picture ${state.done + 1} of ${state.total}`)];
    if (state.beside) there.push(picture(pictures, state.beside, "the original to compare with"));
    await Promise.all(there);
    if (state.position !== position || busy) return;
    shownAt = performance.now();
    root.dataset.seen = position;
  }

  function show(next) {
    const again = state?.choices?.join("\n") !== next.choices.join("\n") || !choices.childElementCount;
    state = next;
    busy = state.finished !== null;
    root.classList.remove("semsim-busy");
    root.classList.toggle("semsim-finished", busy);
    bar.max = state.total;
    bar.value = state.done;
    count.textContent = `${state.done} of ${state.total} answered`;
    question.textContent = state.question;
    undo.disabled = !state.can_undo;
    root.dataset.position = state.position;
    delete root.dataset.seen;
    pictures.replaceChildren();
    if (busy) for (const line of state.finished) element(pictures, "p", "", line);
    else present();
    if (again) listChoices();
    typed.value = "";
    filter();
  }

  const keyOf = number => state.keys[number];
  const manyClasses = () => state.keys.length === 0;

  function listChoices() {
    choices.replaceChildren();
    typed.hidden = !manyClasses();
    state.choices.forEach((name, number) => {
      const button = element(choices, "button", "semsim-choice");
      if (keyOf(number)) element(button, "kbd", "", keyOf(number));
      element(button, "span", "", name);
      button.dataset.answer = number;
      button.onclick = () => answer(number);
    });
    const none = element(choices, "button", "semsim-choice semsim-none");
    element(none, "kbd", "", "space");
    element(none, "span", "", state.refusal);
    none.dataset.answer = -1;
    none.onclick = () => answer(-1);
  }

  // ---- answering ----
  const classes = () => [...choices.querySelectorAll(".semsim-choice:not(.semsim-none)")];
  const fitting = () => classes().filter(button => !button.hidden);

  function filter() { // names that begin with the typed text come before those in which a later word does
    const wanted = plain(typed.value).trimStart();
    for (const button of choices.querySelectorAll(".semsim-choice:not(.semsim-none)")) {
      const name = plain(state.choices[button.dataset.answer]);
      button.hidden = !(name.startsWith(wanted) || name.includes(` ${wanted}`));
      button.style.order = name.startsWith(wanted) ? 0 : 1;
    }
    mark(0);
  }

  const ordered = () => fitting().sort((one, other) => one.style.order - other.style.order);

  function mark(number) {
    const there = ordered();
    marked = Math.max(0, Math.min(number, there.length - 1));
    for (const button of choices.children) button.classList.remove("semsim-marked");
    if (manyClasses() && typed.value) there[marked]?.classList.add("semsim-marked");
  }

  function answer(number) {
    if (busy || !shownAt) return; // the next picture is not visible yet
    const milliseconds = Math.round(performance.now() - shownAt);
    shownAt = 0;
    root.focus({ preventScroll: true });
    submit({ kind: "answer", id: randomId(), position: state.position, answer: number, milliseconds });
  }

  function takeBack() {
    if (root.classList.contains("semsim-busy") || !state?.can_undo) return;
    shownAt = 0;
    root.focus({ preventScroll: true }); // the disabled button would receive the keys
    submit({ kind: "undo", id: randomId(), position: state.position });
  }
  undo.onclick = takeBack;

  function press(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || !state) return;
    const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    const number = state.keys.indexOf(key);
    let taken = true;
    if (event.repeat) taken = key !== "Tab"; // a key held down is one answer
    else if (key === "Backspace" && !typed.value) takeBack();
    else if (key === " " && !typed.value) answer(-1);
    else if (number >= 0) answer(number);
    else if (manyClasses() && key === "Enter" && typed.value) {
      const chosen = ordered()[marked];
      if (chosen) answer(Number(chosen.dataset.answer));
    }
    else if (manyClasses() && key === "ArrowDown") mark(marked + 1);
    else if (manyClasses() && key === "ArrowUp") mark(marked - 1);
    else if (manyClasses() && key === "Escape") {
      typed.value = "";
      filter();
    }
    else {
      taken = false;
      const isLetter = manyClasses() && !busy && key.length === 1;
      if (isLetter && event.target !== typed) typed.focus({ preventScroll: true }); // the field receives the letter
    }
    event.stopPropagation(); // the surrounding notebook must not handle it
    if (taken) event.preventDefault();
  }
  root.addEventListener("keydown", press);
  typed.addEventListener("input", filter);
  const focus = () => { away.hidden = root.contains(root.ownerDocument.activeElement); };
  root.addEventListener("focusin", focus);
  root.addEventListener("focusout", () => setTimeout(focus));
  root.addEventListener("pointerup", event => {
    if (!event.target.closest("button, input")) root.focus({ preventScroll: true });
  });

  // ---- connecting and leaving ----
  const tell = kind => {
    try { model.send({ kind, client, tab, to: "" }); } catch { /* a later message reports it */ }
  };
  const beat = setInterval(() => { if (state && !root.classList.contains("semsim-busy")) tell("beat"); }, PATIENCE);
  const leave = () => tell("leave");
  window.addEventListener("pagehide", leave, { signal: ended.signal });
  open();
  root.focus({ preventScroll: true });
  focus();
  return () => {
    leave();
    clearInterval(beat);
    ended.abort();
    model.off?.("msg:custom", hear);
  };
}

export default { render };
