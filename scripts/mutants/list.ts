// Mutants of a source: a line of a check taken out, a condition that never holds, one half of a condition left out. Each
// stays valid syntax, so that a mutant dies of a test and not of a typing mistake.
export type Mutant = Readonly<{
  /** Counted from 1. */
  line: number
  what: 'without' | 'never' | 'half'
  /** The source with the mutation in it. */
  source: string
}>

const statement =
  /^\s*(?:await )?(?:check\w*|refuse\w*|wrong|invalid|steps\.rule|input\.end|outer\.end|\w+\.end)\(.*\)(?: \/\/.*)?$/
const condition = /^(\s*(?:\} else )?if \()(.*)(\)(?: \{| [^)]*| .*\))?)$/

/** Of the same length, with nothing that counts inside quotes. */
const masked = (text: string): string =>
  text.replace(/'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|`(?:[^`\\]|\\.)*`/g, quoted => '_'.repeat(quoted.length))

/** Operands of a condition at its outermost level. */
function operands(text: string, operator: '||' | '&&'): string[] {
  const bare = masked(text)
  const parts: string[] = []
  let depth = 0
  let from = 0
  for (let i = 0; i < bare.length; i++) {
    if ('([{'.includes(bare[i] as string)) depth++
    else if (')]}'.includes(bare[i] as string)) depth--
    else if (depth === 0 && bare.startsWith(operator, i)) {
      parts.push(text.slice(from, i))
      from = i + operator.length
    }
  }
  return [...parts, text.slice(from)].map(part => part.trim())
}

/** Where the bracket that opens the condition closes; -1 where it goes on below. */
function closing(line: string, open: number): number {
  const bare = masked(line)
  let depth = 0
  for (let i = open; i < bare.length; i++) {
    if (bare[i] === '(') depth++
    if (bare[i] === ')' && --depth === 0) return i
  }
  return -1
}

function ofCondition(line: string): Omit<Mutant, 'line'>[] {
  const start = condition.exec(line)?.[1]
  if (start === undefined) return []
  const end = closing(line, start.length - 1)
  if (end < 0) return []
  const text = line.slice(start.length, end)
  const rest = line.slice(end)
  const halves = (['||', '&&'] as const).flatMap(operator => {
    const parts = operands(text, operator)
    if (parts.length < 2) return []
    return parts.map((_, i) => parts.filter((_part, j) => j !== i).join(` ${operator} `))
  })
  return [
    { what: 'never', source: `${start}false${rest}` },
    ...halves.map(half => ({ what: 'half' as const, source: `${start}${half}${rest}` })),
  ]
}

export function mutantsOf(source: string): Mutant[] {
  const lines = source.split('\n')
  return lines.flatMap((line, i) => {
    const without = statement.test(line) ? [{ what: 'without' as const, source: '' }] : []
    return [...without, ...ofCondition(line)].map(mutant => ({
      line: i + 1,
      what: mutant.what,
      source: lines.with(i, mutant.source).join('\n'),
    }))
  })
}
