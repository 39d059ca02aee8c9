/**
 * The JSON of a v1 package: one object whose names are matched without regard to case, as Go does it, and whose other
 * members are nobody's business. Two names for one member have two readers, and an attacker between them.
 */

type Member = Readonly<{ name: string; value: unknown }>

/** The members of the object that a text is, doubles included, in their order; null where it is not one. */
export function membersOf(text: string): Member[] | null {
  let whole: unknown
  try {
    whole = JSON.parse(text)
  } catch {
    return null
  }
  if (typeof whole !== 'object' || whole === null || Array.isArray(whole)) return null
  return namesOf(text).map(name => ({ name, value: (whole as Record<string, unknown>)[name] }))
}

/** The names of the outermost object, in a text that is known to be JSON: the strings that a colon follows. */
function namesOf(text: string): string[] {
  const names: string[] = []
  let depth = 0
  let last = ''
  for (let at = 0; at < text.length; at++) {
    const character = text[at]
    if (character === '"') {
      const end = endOfString(text, at)
      if (depth === 1) last = text.slice(at, end)
      at = end - 1
    } else if (character === '{' || character === '[') depth++
    else if (character === '}' || character === ']') depth--
    else if (character === ':' && depth === 1) names.push(JSON.parse(last) as string)
  }
  return names
}

function endOfString(text: string, start: number): number {
  let at = text.indexOf('"', start + 1)
  while (isEscaped(text, at)) at = text.indexOf('"', at + 1)
  return at + 1
}

/** An odd number of backslashes stands before it. */
function isEscaped(text: string, at: number): boolean {
  let before = at - 1
  while (text[before] === '\\') before--
  return (at - before) % 2 === 0
}

/**
 * The one member of this name: text, or null where it is absent or null. `undefined`: two members answer to the name,
 * or it is no text. Unicode's folding counts for collisions (Go takes U+017F for s, U+212A for k), not for a match.
 */
export function textMember(members: readonly Member[], name: string): string | null | undefined {
  const alike = members.filter(each => fold(each.name) === name)
  if (alike.length > 1) return undefined
  const [only] = alike
  if (only === undefined || only.value === null) return null
  return typeof only.value === 'string' && /^[A-Za-z]+$/.test(only.name) ? only.value : undefined
}

const fold = (name: string): string => name.replaceAll('\u017f', 's').replaceAll('\u212a', 'k').toLowerCase()

/** What a forgiving reader takes: the exact name, else any that differs in case; the last of several. */
export function lenientMember(members: readonly Member[], name: string): string | null {
  const exact = members.findLast(each => each.name === name)
  const member = exact ?? members.findLast(each => each.name.toLowerCase() === name)
  return typeof member?.value === 'string' ? member.value : null
}
