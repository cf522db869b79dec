// Stands in for sortablejs, which SlickGrid needs only to drag columns (switched off here).
export default class {}
