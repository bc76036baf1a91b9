/* One trajectory: as a conversation with its repairs, and token by token. */

const PYTHON = /(#[^\n]*)|("""[\s\S]*?"""|'''[\s\S]*?'''|"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*')|\b(\d[\d_.]*(?:e[+-]?\d+)?)\b|\b(and|as|assert|async|await|break|class|continue|def|del|elif|else|except|finally|for|from|global|if|import|in|is|lambda|nonlocal|not|or|pass|raise|return|try|while|with|yield|None|True|False)\b|\b(print|range|len|sum|min|max|int|str|float|list|dict|set|abs|sorted|enumerate|zip|map|any|all)\b/g;
const PYTHON_CLASSES = ["comment", "string", "number", "keyword", "builtin"];

function codeBlock(text) {
  const code = h("code");
  let end = 0;
  if (text.length < 20000) {
    for (const match of text.matchAll(PYTHON)) {
      put(code, text.slice(end, match.index));
      const which = PYTHON_CLASSES[match.slice(1).findIndex((group) => group !== undefined)];
      code.append(h("span", { class: "py-" + which }, match[0]));
      end = match.index + match[0].length;
    }
  }
  put(code, text.slice(end));
  return h("pre", { class: "code", tabindex: 0 }, code);
}

function prose(text) {
  return h("div", { class: "prose", dir: "auto" }, text);
}

function fold(title, text, open = false) {
  return h("details", { open }, h("summary", {}, title), prose(text));
}

function conversation(body) {
  const view = h("div", { class: "conversation" });
  for (const [kind, text] of body.prompt) view.append(message(kind, kind === "system" ? fold("system prompt", text) : text.length > 3000 ? fold("prompt", text, true) : prose(text)));
  let turn = null, card = null;
  const seen = {};
  for (const [kind, text, number, tool, code] of body.blocks) {
    if (kind === "response") {
      const at = (seen[number] = (seen[number] ?? -1) + 1);
      view.append(toolResponse(text, callsOf(body, number)[at]));
      turn = null;
      continue;
    }
    if (kind === "user" || kind === "system") {
      view.append(message(kind, prose(text)));
      turn = null;
      continue;
    }
    if (turn !== number || !card) {
      turn = number;
      card = assistantTurn(number, body.retries.filter((retry) => retry.turn === number), body.attempts.filter((attempt) => attempt.turn === number).at(-1));
      view.append(card.node);
    }
    if (kind === "call") card.call(callBlock(text, tool, code));
    else card.add(kind === "thinking" ? fold("thinking", text) : prose(text));
  }
  if (!body.exact) view.append(h("p", { class: "hint" }, "Turns are guessed from the text: the run has no dump of tokens (trainer.dump_tokens=True)."));
  return view;
}

/** [failure kind, seconds] of the calls of a turn whose responses stayed in the trajectory. */
function callsOf(body, turn) {
  const attempts = body.attempts.filter((attempt) => attempt.turn === turn);
  const all = body.retries.some((retry) => retry.turn === turn && ["kept", "voided"].includes(retry.result));
  return (all ? attempts : attempts.slice(-1)).flatMap((attempt) => attempt.kinds.map((kind, i) => [kind, attempt.seconds[i]]));
}

function message(role, content) {
  return h("section", { class: "message " + role, "aria-label": role }, h("h4", {}, role), content);
}

function assistantTurn(number, retries, attempt) {
  const last = retries.filter((retry) => retry.result === "overwritten").at(-1);
  const whole = last && last.strategy === "full_turn", fails = attempt && attempt.kinds.some((kind) => kind !== null);
  const content = h("div", { class: "content" });
  const node = h("section", { class: "message assistant" + (last ? " repaired" : "") + (whole ? " whole" : ""), "aria-label": `assistant, turn ${number}` },
    h("h4", {}, "assistant", h("span", { class: "muted" }, ` turn ${number}`), last ? h("span", { class: "badge " + (fails ? "bad" : "good") }, (whole ? "turn overwritten" : "call overwritten") + (fails ? ", still fails" : "")) : null), content);
  if (retries.length) node.append(repairs(retries));
  return {
    node,
    add: (child) => content.append(child),
    call: (child) => { if (last) child.classList.add("overwritten"); content.append(child); },
  };
}

function callBlock(raw, tool, code) {
  const view = h("div", { class: "call" }, h("div", { class: "call-head" }, "tool call", tool ? h("b", {}, " " + tool) : h("b", { class: "bad" }, " malformed")));
  view.append(codeBlock(code || raw));
  if (code) view.append(h("details", { class: "raw" }, h("summary", {}, "as written"), h("pre", { class: "code", tabindex: 0 }, raw)));
  return view;
}

function toolResponse(text, call) {
  const [kind, seconds] = call || [];
  const state = !call ? null : kind ? h("span", { class: "badge bad" }, kind) : h("span", { class: "badge good" }, "ok");
  const first = text.split("\n", 1)[0].slice(0, 90);
  return h("section", { class: "message tool", "aria-label": "tool response" }, h("details", {},
    h("summary", {}, h("h4", {}, "tool response"), state, seconds !== undefined ? h("span", { class: "muted" }, `${seconds.toFixed(2)} s`) : null, h("span", { class: "peek" }, first)),
    h("pre", { class: "code", tabindex: 0 }, text)));
}

/** What a turn was before: every retry with its error, similarity and diff, behind one click. */
function repairs(retries) {
  const kinds = retries[0].kinds.join(", "), last = retries.at(-1);
  const count = retries.length === 1 ? "1 retry" : `${retries.length} retries`;
  return h("details", { class: "repairs" },
    h("summary", {}, h("span", { class: "was" }, last.result === "overwritten" ? "what was overwritten" : "what was tried"), h("span", { class: "badge bad" }, kinds), h("span", { class: "muted" }, count)),
    retries.map((retry) => h("div", { class: "retry" },
      h("p", { class: "facts" }, h("b", {}, `retry ${retry.retry}`), h("span", { class: "badge " + (retry.result === "overwritten" ? "good" : "bad") }, retry.result.replace("_", " ")), retry.similarity === null ? null : meter(retry),
        h("span", { class: "muted" }, [`${retry.generated} tokens generated, ${retry.discarded} discarded`, `${(retry.seconds || 0).toFixed(2)} s`, retry.gap === null ? null : `gap ${retry.gap.toFixed(2)} nats`].filter(Boolean).join(" · "))),
      retry.error ? h("pre", { class: "error", tabindex: 0 }, retry.error) : null,
      retry.malformed ? h("details", {}, h("summary", {}, "the malformed call as written"), h("pre", { class: "code", tabindex: 0 }, retry.malformed)) : null,
      retry.failed ? codeBlock(retry.failed) : null,
      retry.diff.length ? diffView(retry.diff) : null)));
}

function meter(retry) {
  const at = (100 * retry.similarity).toFixed(0), limit = (100 * retry.threshold).toFixed(0);
  const what = retry.strategy === "tool_call_only" ? "the old reasoning stays, the call is replaced" : retry.strategy === "full_turn" ? "the whole turn is replaced" : "";
  return h("span", { class: "meter", title: `similarity ${retry.similarity} , threshold γ ${retry.threshold}. ${what}` },
    h("span", { class: "track", style: `--at: ${at}%; --limit: ${limit}%`, "aria-hidden": "true" }), `similarity ${retry.similarity.toFixed(2)}`);
}

function diffView(lines) {
  const view = h("pre", { class: "diff", tabindex: 0, "aria-label": "failed call and repaired call" });
  for (const [sign, parts] of lines) {
    const line = h(sign === "-" ? "del" : sign === "+" ? "ins" : "span", { class: "line" }, h("span", { class: "sign" }, sign === " " ? "\u00a0" : sign === "-" ? "−" : "+"));
    for (const [changed, text] of parts) line.append(changed && sign !== " " && parts.length > 1 ? h("mark", {}, text) : put(h("span"), text));
    view.append(line);
  }
  return view;
}

const SHOWN = 3000;

/** Token by token; the shade is the chosen number, the underline says overwritten. */
function tokenView(body) {
  const tokens = body.tokens;
  if (!tokens) return h("p", { class: "hint" }, "The run has no dump of tokens; it writes one with trainer.dump_tokens=True.");
  const choices = [["old", "log-prob (trainer)"], ["rollout", "log-prob (rollout)"], ["advantage", "advantage"]].filter(([name]) => tokens[name]);
  const view = h("div", { class: "tokens" });
  const info = h("output", { class: "token-info" }, "Point at a token, or move through them with the arrow keys.");
  const box = h("div", { class: "token-box", tabindex: 0, role: "group", "aria-label": "Tokens of the response" });
  const draw = (shade, from) => {
    const list = document.createDocumentFragment();
    const to = Math.min(tokens.texts.length, from + SHOWN);
    for (let i = from; i < to; i++) list.append(token(tokens, i, shade));
    box.append(list);
    if (to < tokens.texts.length) {
      const more = h("button", { type: "button", onclick: () => { more.remove(); draw(shade, to); } }, `show more (${tokens.texts.length - to})`);
      box.append(more);
    }
  };
  let at = -1;
  const show = (node) => {
    box.querySelectorAll(".at").forEach((other) => other.classList.remove("at"));
    node.classList.add("at");
    at = Number(node.dataset.i);
    info.replaceChildren(h("b", {}, `token ${at}`), h("code", {}, JSON.stringify(tokens.texts[at])),
      h("span", {}, tokens.mask[at] ? (tokens.over[at] ? "trained on, overwritten" : "trained on") : "not trained on"),
      ...choices.map(([name, label]) => h("span", {}, `${label} `, h("b", {}, format(tokens[name][at])))));
  };
  box.addEventListener("pointerover", (event) => { if (event.target.dataset && event.target.dataset.i) show(event.target); });
  box.addEventListener("keydown", (event) => {
    const move = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    const node = move && box.querySelector(`[data-i="${at + move}"]`);
    if (node) { event.preventDefault(); show(node); node.scrollIntoView({ block: "nearest" }); }
  });
  const pick = h("select", { "aria-label": "Shade tokens by", onchange: () => { box.replaceChildren(); draw(pick.value, 0); } }, choices.map(([name, label]) => h("option", { value: name }, label)));
  view.append(h("div", { class: "token-head" }, choices.length ? h("label", {}, "shade ", pick) : null,
    h("span", { class: "key-over" }, "overwritten"), h("span", { class: "key-context" }, "not trained on")), info, box);
  if (tokens.more) view.append(h("p", { class: "hint" }, `${tokens.more} more tokens are in the dump.`));
  draw(choices.length ? choices[0][0] : null, 0);
  return view;
}

function token(tokens, i, shade) {
  const text = tokens.texts[i];
  const node = h("span", { class: "token" + (tokens.mask[i] ? "" : " context") + (tokens.over[i] ? " over" : ""), "data-i": i }, text.replace(/\n/g, "⏎") || "·");
  const value = shade && tokens.mask[i] ? tokens[shade][i] : null;
  if (value !== null) {
    const part = shade === "advantage" ? Math.min(1, Math.abs(value) / 2) : Math.sqrt(Math.min(1, Math.max(0, -value) / 6));
    node.style.setProperty("--heat", (100 * Math.max(0, part)).toFixed(0) + "%");
    node.style.setProperty("--hue", shade === "advantage" && value > 0 ? "var(--good)" : "var(--bad)");
  }
  return text.endsWith("\n") ? frag(node, "\n") : node;
}

function frag(...children) {
  const made = document.createDocumentFragment();
  made.append(...children);
  return made;
}
