"use strict";

const by = (id) => document.getElementById(id);
const figures = { left: document.querySelector('[data-side="left"]'), right: document.querySelector('[data-side="right"]') };
const ballot = by("ballot");
const box = ballot.querySelector("fieldset");
const NAME = "hh-train-arena-rater";
const SHARE_TO_PLAY = 0.9; // of a clip, in one go: players stop a little short of the end

let rater = localStorage.getItem(NAME) || "";
let trial = null;
let plays = { left: 0, right: 0 };
let retry = null;
let sending = false;

function show(id) {
  for (const name of ["welcome", "trial", "finished"]) by(name).hidden = name !== id;
}

function fault(message, again) {
  by("fault").hidden = !message;
  by("fault").firstElementChild.textContent = message || "";
  by("again").hidden = !again;
  retry = again || null;
}

async function ask(path, fields) {
  let response;
  try {
    response = await fetch(path, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify(fields),
    });
  } catch {
    throw new Error("The server does not answer.");
  }
  const answer = await response.json().catch(() => ({}));
  if (!response.ok) throw new Error(answer.error || `The server answers ${response.status}.`);
  return answer;
}

async function next() {
  fault("");
  try {
    trial = await ask("trial", { rater });
  } catch (error) {
    if (!by("trial").hidden || !by("finished").hidden) return fault(error.message, next);
    show("welcome");
    by("name").value = rater;
    return fault(error.message);
  }
  localStorage.setItem(NAME, rater);
  if (trial.finished) {
    for (const side of Object.values(figures)) side.querySelector("video").removeAttribute("src");
    return show("finished");
  }
  plays = { left: 0, right: 0 };
  ballot.reset();
  by("prompt").textContent = trial.prompt.replace(/\n{2,}/g, "\n");
  by("progress").textContent = `Pair ${trial.number} of about ${Math.max(trial.number, trial.num_trials)}`;
  by("who").textContent = rater;
  for (const [side, figure] of Object.entries(figures)) {
    figure.classList.remove("played", "playing");
    figure.querySelector(".state").textContent = "not played yet";
    const video = figure.querySelector("video");
    video.src = trial[side];
    video.load();
  }
  unlock();
  show("trial");
}

function unlock() {
  const open = plays.left > 0 && plays.right > 0;
  box.disabled = !open;
  by("hint").textContent = open ? "Which is better?" : "Play both clips to the end first.";
  by("send").disabled = !open || !ballot.elements.winner.value || sending;
}

function pause() {
  for (const figure of Object.values(figures)) figure.querySelector("video").pause();
}

function play(side) {
  pause();
  const video = figures[side].querySelector("video");
  video.currentTime = 0;
  video.playbackRate = 1;
  video.play().catch((error) => {
    if (error.name !== "AbortError") fault("A clip cannot be played.", () => { fault(""); play(side); });
  });
}

for (const [side, figure] of Object.entries(figures)) {
  const video = figure.querySelector("video");
  const state = figure.querySelector(".state");
  figure.querySelector(".play").addEventListener("click", () => play(side));
  video.addEventListener("playing", () => { figure.classList.add("playing"); state.textContent = "playing"; });
  video.addEventListener("pause", () => {
    figure.classList.remove("playing");
    state.textContent = plays[side] ? "played" : "not played to the end yet";
  });
  video.addEventListener("ended", () => {
    let longest = 0;
    for (let i = 0; i < video.played.length; i++) longest = Math.max(longest, video.played.end(i) - video.played.start(i));
    if (longest < SHARE_TO_PLAY * video.duration) return;
    plays[side] += 1;
    figure.classList.add("played");
    figure.classList.remove("playing");
    state.textContent = "played";
    unlock();
  });
  video.addEventListener("error", () => {
    if (video.getAttribute("src")) fault("A clip cannot be loaded.", next);
  });
  video.addEventListener("contextmenu", (event) => event.preventDefault());
}

async function send() {
  if (box.disabled || sending || !ballot.elements.winner.value) return;
  const vote = { trial: trial.trial, rater, plays };
  for (const name of ["winner", "lips", "speech", "picture"]) vote[name] = ballot.elements[name].value || null;
  sending = true;
  unlock();
  try {
    await ask("vote", vote);
  } catch (error) {
    sending = false;
    unlock();
    return fault(error.message, send);
  }
  sending = false;
  await next();
}

ballot.addEventListener("change", unlock);
ballot.addEventListener("submit", (event) => { event.preventDefault(); send(); });
by("name-form").addEventListener("submit", (event) => {
  event.preventDefault();
  rater = by("name").value.trim();
  next();
});
by("other").addEventListener("click", () => {
  pause();
  rater = "";
  localStorage.removeItem(NAME);
  by("name").value = "";
  fault("");
  show("welcome");
});
by("again").addEventListener("click", () => { if (retry) retry(); });
document.addEventListener("keydown", (event) => {
  if (by("trial").hidden || event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
  const side = { 1: "left", 2: "right" }[event.key];
  const choice = { a: "left", b: "right", e: "tie", x: "both_bad" }[event.key.toLowerCase()];
  if (side) play(side);
  else if (choice && !box.disabled) {
    ballot.elements.winner.value = choice;
    unlock();
  } else if (event.key === "Enter" && event.target.tagName !== "BUTTON") {
    event.preventDefault();
    send();
  }
});

if (rater) next();
else show("welcome");
