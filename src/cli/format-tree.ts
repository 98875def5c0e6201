/** Formats trees as tree(1) does. */
export interface TreeNode {
  /** The node's first line and further lines. */
  readonly text: readonly string[];
  readonly children: readonly TreeNode[];
}

/** @returns lines */
export function formatTree(root: TreeNode): string[] {
  const lines: string[] = [];
  const draw = ({text: [first, ...more], children}: TreeNode, own: string, below: string): void => {
    lines.push(own + first!);
    const stem = children.length > 0 ? '│   ' : '    ';
    for (const line of more) lines.push(below + stem + line);
    children.forEach((child, i) => {
      const last = i === children.length - 1;
      draw(child, `${below}${last ? '└── ' : '├── '}`, `${below}${last ? '    ' : '│   '}`);
    });
  };
  draw(root, '', '');
  return lines;
}
