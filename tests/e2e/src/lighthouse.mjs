// Lighthouse (npm's) visits pages in a Chromium that runs already, with its cookies, and looks at what does not depend on
// the speed of a machine. Prints a report of each page and category as JSON.

import lighthouse, { desktopConfig } from "lighthouse";

const { port, pages } = JSON.parse(process.env.SETTINGS);

const flags = {
  port,
  logLevel: "error",
  onlyCategories: ["accessibility", "best-practices"],
  // It would clear what the site keeps in the browser.
  disableStorageReset: true,
  disableFullPageScreenshot: true,
  // What comes after the load is asked for every few seconds for ever; for an end of that it would wait 45 s.
  pauseAfterFcpMs: 0,
  pauseAfterLoadMs: 0,
  cpuQuietThresholdMs: 0,
};

// Why a page is not the one that was asked for.
const strayed = ({ runtimeError, finalDisplayedUrl }, url) => {
  if (runtimeError) return [runtimeError.message];
  return finalDisplayedUrl === url ? [] : [`led to ${finalDisplayedUrl}`];
};

// What keeps an audit from its full score, and the first places where that is.
const failed = (audits, { id, weight }) => {
  const { score, scoreDisplayMode, title, errorMessage, details } = audits[id];
  if (scoreDisplayMode === "error") return [`${id}: ${errorMessage}`];
  if (weight === 0 || score === null || score === 1) return [];
  const places = (details?.items ?? []).slice(0, 3).map((item) => item.node?.snippet ?? JSON.stringify(item));
  return [`${id}: ${title} ${places.join(" | ")}`];
};

const reports = [];
for (const { name, url, isPhone } of pages) {
  const { lhr } = await lighthouse(url, flags, isPhone ? undefined : desktopConfig);
  const astray = strayed(lhr, url);
  for (const { id, score, auditRefs } of Object.values(lhr.categories)) {
    const report = { page: name, category: id, score: score ?? 0, failed: auditRefs.flatMap((ref) => failed(lhr.audits, ref)) };
    reports.push(astray.length > 0 ? { ...report, score: 0, failed: astray } : report);
  }
}
console.log(JSON.stringify(reports));
