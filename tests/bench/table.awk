# SPDX-License-Identifier: MIT
# What run-bench measured, as Markdown (-v form=markdown) or JSON (-v form=json).
# Input: "PART key=value...", or "machine NAME text".

function fields(    i, at) {
  split("", f)
  for (i = 2; i <= NF; i++) {
    at = index($i, "=")
    f[substr($i, 1, at - 1)] = substr($i, at + 1)
  }
}

# A sample: a value of one series. Series are named; the order of names is kept.
function sample(series, value) {
  samples[series, ++count[series]] = value + 0
}

# Sort a series once, then its smallest, median and largest can be asked for.
function order(series,    i, j, v) {
  if (ordered[series]++)
    return
  for (i = 2; i <= count[series]; i++) {
    v = samples[series, i]
    for (j = i - 1; j > 0 && samples[series, j] > v; j--)
      samples[series, j + 1] = samples[series, j]
    samples[series, j + 1] = v
  }
}

function lowest(series) {
  order(series)
  return samples[series, 1]
}

function highest(series) {
  order(series)
  return samples[series, count[series]]
}

function median(series,    n) {
  order(series)
  n = count[series]
  return n % 2 ? samples[series, (n + 1) / 2] : (samples[series, n / 2] + samples[series, n / 2 + 1]) / 2
}

# "median (lowest to highest)"
function spread(series, format) {
  return sprintf(format " (" format " to " format ")", median(series), lowest(series), highest(series))
}

function json(series) {
  return sprintf("{\"min\": %.10g, \"median\": %.10g, \"max\": %.10g}", lowest(series), median(series),
    highest(series))
}

function size_name(bytes) {
  return bytes < 1048576 ? bytes / 1024 " KiB" : bytes / 1048576 " MiB"
}

function number_name(n,    s) {
  s = sprintf("%d", n)
  while (s ~ /[0-9][0-9][0-9][0-9]/)
    s = substr(s, 1, match(s, /[0-9][0-9][0-9]($|,)/) - 1) "," substr(s, RSTART)
  return s
}

$1 == "machine" {
  name = $2
  sub(/^machine [^ ]* /, "")
  gsub(/["\\]/, "")
  machine[name] = $0
  machine_names[++machine_count] = name
  next
}

{ fields() }

$1 == "ingest" {
  load = f["size"] " " f["connections"]
  if (!(load in seen)) {
    seen[load] = 1
    loads[++load_count] = load
  }
  at = load " " f["side"]
  sample(at " rate", f["rate"])
  sample(at " p50", f["p50_ms"])
  sample(at " p99", f["p99_ms"])
  sample(at " syncs", f["syncs"] / f["stored"])
  sample(at " written", f["written"] / (f["stored"] * f["size"]))
  sample(at " cpu", f["cpu_ms"] * 1000 / f["stored"])
  sample(at " memory", f["max_rss_kb"] / 1024)
  rates[load, f["run"], f["side"]] = f["rate"]
  # The two of one run, which stood under the same noise.
  if (f["side"] == "limit")
    sample(load " ratio", rates[load, f["run"], "ours"] / f["rate"])
}

$1 == "large" {
  large = f["bytes"]
  sample("large ours", f["ours_s"])
  sample("large limit", f["limit_s"])
  sample("large disk", f["disk_seconds"])
  sample("large to disk", f["disk_seconds"] / f["ours_s"])
  sample("large to limit", f["limit_s"] / f["ours_s"])
  sample("large peak", f["ours_kb"] / 1024)
}

$1 == "idle" {
  for (k in f)
    idle[k] = f[k]
  has_idle = 1
}

$1 == "scale" && "level" in f {
  level = f["level"]
  if (!(("level " level) in seen)) {
    seen["level " level] = 1
    levels[++level_count] = level
  }
  sample("scale " level " accept", f["accept_us"])
  sample("scale " level " accept cpu", f["accept_cpu_us"])
  sample("scale " level " p50", f["accept_p50_ms"])
  sample("scale " level " p99", f["accept_p99_ms"])
  sample("scale " level " drain", f["drain_us"])
  sample("scale " level " drain cpu", f["drain_cpu_us"])
}

$1 == "scale" && "opened" in f {
  open_ms[f["opened"]] = f["open_ms"]
  if (f["opened"] == "clean")
    open_queued = f["queued"]
  open_kb = f["rss_kb"]
}

$1 == "scale" && "daemon" in f {
  start_ms = f["start_ms"]
  start_kb = f["rss_kb"]
}

function markdown_ingest(    i, load, p, o, l) {
  print "\n| workload | ours/s | limit/s | ratio | p50 ms | p99 ms | limit p99 |"
  print "| --- | --- | --- | --- | --- | --- | --- |"
  for (i = 1; i <= load_count; i++) {
    load = loads[i]
    split(load, p, " ")
    o = load " ours"
    l = load " limit"
    printf "| %s × %d | %s | %s | %s | %.2f | %.2f | %.2f |\n", size_name(p[1]), p[2],
      spread(o " rate", "%.0f"), spread(l " rate", "%.0f"), spread(load " ratio", "%.2f"),
      median(o " p50"), median(o " p99"), median(l " p99")
  }
  print "\n| workload | syncs per report (limit) | bytes written per byte (limit) |" \
    " CPU µs per report (limit) | peak MiB (limit) |"
  print "| --- | --- | --- | --- | --- |"
  for (i = 1; i <= load_count; i++) {
    load = loads[i]
    split(load, p, " ")
    o = load " ours"
    l = load " limit"
    printf "| %s × %d | %.2f (%.2f) | %.2f (%.2f) | %.0f (%.0f) | %.1f (%.1f) |\n",
      size_name(p[1]), p[2], median(o " syncs"), median(l " syncs"), median(o " written"),
      median(l " written"), median(o " cpu"), median(l " cpu"), median(o " memory"),
      median(l " memory")
  }
}

function markdown_scale(    i, s) {
  print "\n| queued | accept µs | of it CPU | p50 ms | p99 ms | claim and settle µs | of it CPU |"
  print "| --- | --- | --- | --- | --- | --- | --- |"
  for (i = 1; i <= level_count; i++) {
    s = "scale " levels[i]
    printf "| %s | %s | %.0f | %.2f | %.2f | %s | %.0f |\n", number_name(levels[i]),
      spread(s " accept", "%.0f"), median(s " accept cpu"), median(s " p50"), median(s " p99"),
      spread(s " drain", "%.0f"), median(s " drain cpu")
  }
}

function markdown() {
  printf "Measured %s on %s, %s cores, %s, %s; median (lowest to highest) of the runs.\n",
    machine["date"], machine["cpu"], machine["cores"], machine["filesystem"], machine["kernel"]
  if (load_count)
    markdown_ingest()
  if (large) {
    print "\n| one body | ours s | limit s | the disk alone s | ratio to limit | ratio to disk | peak MiB |"
    print "| --- | --- | --- | --- | --- | --- | --- |"
    printf "| %s | %s | %s | %s | %s | %s | %.1f |\n", size_name(large), spread("large ours", "%.2f"),
      spread("large limit", "%.2f"), spread("large disk", "%.2f"), spread("large to limit", "%.2f"),
      spread("large to disk", "%.2f"), highest("large peak")
  }
  if (has_idle) {
    print "\n| resident, MiB: started | after a burst | given back | its peak | wake-ups a second, idle |"
    print "| --- | --- | --- | --- | --- |"
    printf "| %.1f | %.1f | %.1f after %d s | %.1f | %.2f |\n", idle["start_kb"] / 1024,
      idle["burst_kb"] / 1024, idle["trimmed_kb"] / 1024, idle["waited_s"], idle["peak_kb"] / 1024,
      idle["wakeups"] / idle["wakeups_s"]
  }
  if (level_count)
    markdown_scale()
  if (start_ms) {
    printf "\nWith %s queued: the spool opens in %.0f ms after a close in order and in %.0f ms", number_name(open_queued),
      open_ms["clean"], open_ms["killed"]
    printf " after kill -9; the daemon is ready in %d ms, with %.1f MiB resident.\n", start_ms, start_kb / 1024
  }
}

function json_side(at) {
  return "{\"per_second\": " json(at " rate") ", \"p50_ms\": " json(at " p50") ", \"p99_ms\": " \
    json(at " p99") ", \"syncs_per_report\": " json(at " syncs") ", \"written_per_byte\": " \
    json(at " written") ", \"cpu_us_per_report\": " json(at " cpu") ", \"peak_mib\": " json(at " memory") "}"
}

function print_json(    i, p, s) {
  printf "{\n  \"machine\": {"
  for (i = 1; i <= machine_count; i++)
    printf "%s\"%s\": \"%s\"", (i > 1 ? ", " : ""), machine_names[i], machine[machine_names[i]]
  printf "}"
  for (i = 1; i <= load_count; i++) {
    split(loads[i], p, " ")
    printf "%s\n    {\"body_bytes\": %d, \"connections\": %d,\n      \"ours\": %s,\n      \"limit\": %s,\n      \"ratio\": %s}",
      (i > 1 ? "," : ",\n  \"ingest\": ["), p[1], p[2], json_side(loads[i] " ours"), json_side(loads[i] " limit"),
      json(loads[i] " ratio")
  }
  if (load_count)
    printf "\n  ]"
  if (large)
    printf ",\n  \"large\": {\"body_bytes\": %d, \"seconds\": %s, \"limit_seconds\": %s, \"disk_seconds\": %s, \"ratio_to_limit\": %s, \"ratio_to_disk\": %s, \"peak_mib\": %s}",
      large, json("large ours"), json("large limit"), json("large disk"), json("large to limit"),
      json("large to disk"), json("large peak")
  if (has_idle)
    printf ",\n  \"idle\": {\"started_kb\": %d, \"burst_kb\": %d, \"peak_kb\": %d, \"given_back_kb\": %d, \"given_back_after_s\": %d, \"wakeups_per_second\": %.2f}",
      idle["start_kb"], idle["burst_kb"], idle["peak_kb"], idle["trimmed_kb"], idle["waited_s"],
      idle["wakeups"] / idle["wakeups_s"]
  for (i = 1; i <= level_count; i++) {
    s = "scale " levels[i]
    printf "%s\n    {\"queued\": %d, \"accept_us\": %s, \"accept_cpu_us\": %s, \"accept_p50_ms\": %s, \"accept_p99_ms\": %s, \"drain_us\": %s, \"drain_cpu_us\": %s}",
      (i > 1 ? "," : ",\n  \"scale\": ["), levels[i], json(s " accept"), json(s " accept cpu"), json(s " p50"),
      json(s " p99"), json(s " drain"), json(s " drain cpu")
  }
  if (level_count)
    printf "\n  ]"
  if (start_ms)
    printf ",\n  \"start\": {\"queued\": %d, \"open_clean_ms\": %s, \"open_killed_ms\": %s, \"open_rss_kb\": %d, \"daemon_ready_ms\": %d, \"daemon_rss_kb\": %d}",
      open_queued, open_ms["clean"], open_ms["killed"], open_kb, start_ms, start_kb
  print "\n}"
}

END {
  if (form == "json")
    print_json()
  else
    markdown()
}
