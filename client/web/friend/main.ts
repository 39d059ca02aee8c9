/** Entry of the friend's page: refuses to run where it could not be trusted, then starts. */
import { webPrimitives } from '../../../attestation/primitives/web.ts'
import { App } from './app.ts'
import { h } from './dom.ts'

/** Why the page does not start here, or null. */
function obstacle(): string | null {
  if (window.top !== window.self) {
    return 'Another page shows this one inside itself, and could lead your hand. Open it in a tab of its own.'
  }
  if (!isSecureContext || globalThis.crypto?.subtle === undefined) {
    return 'This page was loaded in a way that could have changed it. Open it as a file on your device, or by a link that begins with https.'
  }
  return null
}

const main = document.querySelector('main') as HTMLElement
const why = obstacle()
if (why === null) void new App(webPrimitives(), main).start()
else main.replaceChildren(h('h1', {}, 'Not here'), h('p', { class: 'warning' }, why))
